"""Subcommands from records to an export, with their options."""

from sumzero import commands
from sumzero.subcommands import Subcommands, count, gibibytes


def add_training(to: Subcommands) -> None:
    """Adds them."""
    demo = to.add(
        "demo",
        commands.demo,
        "The whole way on real data in minutes: docstrings in, scored report out.",
        "sumzero demo --data my.jsonl data.train.targets=summary",
    )
    demo.add_argument("--data", metavar="FILE", help="your own records, in place of it")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    doctor = to.add(
        "doctor",
        commands.doctor,
        "What is installed, what would be used, what is missing.",
        "sumzero doctor --json",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    run = to.add_stage(
        "run",
        commands.run,
        "All stages on this machine: prepare, train, export, generate, score, report.",
        "sumzero run recipes/scitldr.toml train.epochs=1",
    )
    run.add_argument("--ranks", type=count, help="training processes (default: GPUs, or 2 on CPU)")
    prepare = to.add_stage(
        "prepare",
        commands.prepare,
        "Tokenise the records into the run's token store, on a CPU, before any GPU is held.",
        "sumzero prepare recipes/scitldr.toml data.max_length=4096",
    )
    prepare.add_argument("--processes", type=count, help="that tokenise (default: one a core)")
    prepare.add_argument("--json", action="store_true", help="print the report as JSON")
    plan = to.add_stage(
        "plan",
        commands.plan,
        "Memory, traffic and speed of each DeepSpeed preset, and which to take; needs no GPU.",
        "sumzero plan recipes/full_8b_zero3.toml --gpus 16 --gpu-memory 80",
    )
    plan.add_argument("--gpus", type=count, required=True, help="in all, over all nodes")
    plan.add_argument("--gpu-memory", type=gibibytes, metavar="GIB", help="default: the device's")
    plan.add_argument("--device", default="H100", help="as torch names it, or short; default H100")
    plan.add_argument("--gpus-per-node", type=count, default=8, help="default: 8")
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    export = to.add_stage(
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
    convert = to.add_stage(
        "convert",
        commands.convert,
        "Make a checkpoint ready to be resumed on another number of ranks, on a CPU.",
        "sumzero convert runs/scitldr --workers 8",
    )
    convert.add_argument("--checkpoint", metavar="STEP", help="or best; default: the newest")
    convert.add_argument("--workers", type=count, default=1, help="processes (default: 1)")
