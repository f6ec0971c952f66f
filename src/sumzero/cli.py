"""The `sumzero` command: one subcommand a stage, each with a run file and overrides."""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from sumzero import __version__, commands, generate_commands, log
from sumzero.errors import guarded
from sumzero.jobs import STEPS
from sumzero.remote_options import add_remote_options


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `sumzero`. Returns the exit code: 2 for a fault the user can mend."""
    return guarded(lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    if more:  # overrides that stand after an option
        if not hasattr(options, "overrides") or any(text.startswith("-") for text in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        options.overrides += more
    log.configure()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
        # DeepSpeed, which transformers imports, would warn that it found no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sumzero",
        description="Fine-tune language models for summarization; serve and score them.",
        epilog="Training itself is started by DeepSpeed: "
        "deepspeed --module sumzero.train RUN.toml [key=value ...]",
    )
    parser.add_argument("--version", action="version", version=f"sumzero {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, function: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name, help=text, description=text, epilog=f"example: {example}"
        )
        command.set_defaults(command=function)
        return command

    def add_stage(
        name: str, function: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        command = add(name, function, text, example)
        command.add_argument("run", metavar="RUN", help="the TOML run file, or a run folder")
        command.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
        return command

    demo = add(
        "demo",
        commands.demo,
        "The whole way on real data in minutes: docstrings in, scored report out.",
        "sumzero demo --data my.jsonl data.train.targets=summary",
    )
    demo.add_argument("--data", metavar="FILE", help="your own records, in place of it")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    doctor = add(
        "doctor",
        commands.doctor,
        "What is installed, what would be used, what is missing.",
        "sumzero doctor --json",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    run = add_stage(
        "run",
        commands.run,
        "All stages on this machine: prepare, train, export, generate, score, report.",
        "sumzero run recipes/scitldr.toml train.epochs=1",
    )
    run.add_argument("--ranks", type=_count, help="training processes (default: GPUs, or 2 on CPU)")
    prepare = add_stage(
        "prepare",
        commands.prepare,
        "Tokenise the records into the run's token store, on a CPU, before any GPU is held.",
        "sumzero prepare recipes/scitldr.toml data.max_length=4096",
    )
    prepare.add_argument("--processes", type=_count, help="that tokenise (default: one a core)")
    prepare.add_argument("--json", action="store_true", help="print the report as JSON")
    plan = add_stage(
        "plan",
        commands.plan,
        "Memory, traffic and speed of each DeepSpeed preset, and which to take; needs no GPU.",
        "sumzero plan recipes/full_8b_zero3.toml --gpus 16 --gpu-memory 80",
    )
    plan.add_argument("--gpus", type=_count, required=True, help="in all, over all nodes")
    plan.add_argument("--gpu-memory", type=_gibibytes, metavar="GIB", help="default: the device's")
    plan.add_argument("--device", default="H100", help="as torch names it, or short; default H100")
    plan.add_argument("--gpus-per-node", type=_count, default=8, help="default: 8")
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    export = add_stage(
        "export",
        commands.export,
        "Turn a checkpoint into a Hugging Face folder that transformers and vLLM have loaded.",
        "sumzero export runs/scitldr --checkpoint step-000400 --dtype bfloat16",
    )
    export.add_argument(
        "--checkpoint", metavar="STEP", help="or best, best-rouge; default: the newest"
    )
    form = export.add_mutually_exclusive_group()
    for flag, text in (
        ("merge", "adapters are merged into their base, into export/ (default)"),
        ("adapter", "the adapters alone, in peft's format, into adapter/"),
    ):
        form.add_argument(f"--{flag}", action="store_const", const=flag, dest="form", help=text)
    export.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="of the weights (default: model.dtype)",
    )
    less = export.add_mutually_exclusive_group()
    less.add_argument("--no-vllm", action="store_true", help="load it with transformers only")
    less.add_argument(
        "--no-probe", action="store_true", help="load it with neither: the model does not fit here"
    )
    convert = add_stage(
        "convert",
        commands.convert,
        "Make a checkpoint ready to be resumed on another number of ranks, on a CPU.",
        "sumzero convert runs/scitldr --workers 8",
    )
    convert.add_argument("--checkpoint", metavar="STEP", help="or best; default: the newest")
    convert.add_argument("--workers", type=_count, default=1, help="processes (default: 1)")
    generate = add_stage(
        "generate",
        generate_commands.generate,
        "Generate for the test records through vLLM.",
        "sumzero generate runs/scitldr --system untrained",
    )
    generate.add_argument(
        "--shard",
        metavar="I/N",
        help="only the records of shard I of 0 to N-1, beside other tasks that do the others; "
        "`sumzero merge` makes one of them",
    )
    merge = add_stage(
        "merge",
        generate_commands.merge,
        "Prove that the shards of a generation are complete, and make one file of them.",
        "sumzero merge runs/scitldr",
    )
    for stage in (generate, merge):
        add_remote_options(stage, with_batches=stage is generate)
        stage.add_argument(
            "--system",
            choices=("finetuned", "untrained", "lead1"),
            help="the export (default), the model it began from, or the first-sentence baseline",
        )
        stage.add_argument(
            "--adapter",
            action="append",
            metavar="[NAME=]FOLDER",
            help="adapters in peft's format in place of export/: a system of this name (default: "
            "its run's or folder's); may be given several times, for one pass with all of them",
        )
        stage.add_argument(
            "--engine",
            default="vllm",
            choices=("vllm", "echo"),
            help="echo needs no model and no export: it returns each document's head, for trying "
            "a recipe; its system is called echo",
        )
        stage.add_argument(
            "--input",
            metavar="FILE",
            help="records in place of the test split, in the same columns; they need no targets, "
            "and are not scored",
        )
        stage.add_argument(
            "--parquet", action="store_true", help="write merged.parquet beside merged.jsonl"
        )
    score = add_stage(
        "score",
        commands.score,
        "Score all generated systems against the references.",
        "sumzero score runs/scitldr --json",
    )
    score.add_argument("--json", action="store_true", help="print one JSON object")
    scored = add_stage(
        "score-checkpoints",
        commands.score_checkpoints,
        "Score each checkpoint on the validation records, and link the best by ROUGE.",
        "sumzero score-checkpoints runs/scitldr --follow",
    )
    scored.add_argument("--follow", action="store_true", help="go on until the training has ended")
    submit = add_stage(
        "submit",
        commands.submit,
        "Submit a run to Slurm as a chain of jobs, each after the one before it.",
        "sumzero submit recipes/full_8b_zero3.toml --nodes 2 --sbatch=train:--time=48:00:00",
    )
    submit.add_argument(
        "--steps",
        metavar="STEP,...",
        default=",".join(STEPS),
        help=f"default: {','.join(STEPS)}",
    )
    submit.add_argument("--nodes", type=_count, default=1, help="that train (default: 1)")
    submit.add_argument(
        "--gpus-per-node", type=_count_or_none, help="default: what Slurm's nodes have"
    )
    submit.add_argument(
        "--ranks-per-node", type=_count, help="training processes; default: one a GPU, 1 without"
    )
    submit.add_argument(
        "--shards", type=_count, help="tasks that generate (default: as many as fit on --nodes)"
    )
    submit.add_argument(
        "--score-checkpoints",
        action="store_true",
        help="score each checkpoint while training goes on, and export the best by ROUGE",
    )
    submit.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="[STEP:]OPTION",
        help="for all jobs or one step's: --sbatch=--qos=high, --sbatch=train:--time=48:00:00",
    )
    submit.add_argument("--again", action="store_true", help="also what is done already")
    submit.add_argument("--dry-run", action="store_true", help="only print what would be submitted")
    add_stage(
        "cancel", commands.cancel, "Cancel a run's Slurm jobs.", "sumzero cancel runs/scitldr"
    )
    status = add_stage(
        "status",
        commands.status,
        "What a run is doing: state, rate, time left; its Slurm jobs, and why one failed.",
        "sumzero status runs/scitldr --json",
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    add_stage("report", commands.report, "Write report.html.", "sumzero report runs/scitldr")
    serve = add_stage(
        "serve",
        commands.serve,
        "Serve the export: POST /summarize, a page, and vLLM's OpenAI routes. "
        "A key that callers must have is taken from SUMZERO_API_KEY.",
        "sumzero serve runs/scitldr --port 8080 generate.max_new_tokens=256",
    )
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    serve.add_argument("--port", type=_port, default=8000, help="default: 8000; 0: a free one")
    serve.add_argument("--max-body-mib", type=_gibibytes, default=8.0, help="default: 8")
    serve.add_argument(
        "--max-concurrent", type=_count, help="requests at once (default: generate.max_in_flight)"
    )
    serve.add_argument("--adapter", action="store_true", help="adapter/ on its base, not export/")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _gibibytes(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return size


if __name__ == "__main__":
    sys.exit(main())
