"""Subcommands that generate and serve, with their options."""

from sumzero import commands, generate_commands
from sumzero.remote_options import add_remote_options
from sumzero.subcommands import Subcommands, count, gibibytes, port


def add_generation(to: Subcommands) -> None:
    """Adds them."""
    generate = to.add_stage(
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
    merge = to.add_stage(
        "merge",
        generate_commands.merge,
        "Prove that the shards of a generation are complete, and make one file of them.",
        "sumzero merge runs/scitldr",
    )
    for stage in (generate, merge):
        add_remote_options(stage, with_batches=stage is generate)
        stage.add_argument(
            "--system",
            choices=("finetuned", "untrained", "lead1", "lead3"),
            help="the export (default), the model it began from, or a baseline: a document's first "
            "sentence, or its first three",
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
    serve = to.add_stage(
        "serve",
        commands.serve,
        "Serve the export: POST /summarize, a page, and vLLM's OpenAI routes. "
        "A key that callers must have is taken from SUMZERO_API_KEY.",
        "sumzero serve runs/scitldr --port 8080 generate.max_new_tokens=256",
    )
    serve.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    serve.add_argument("--port", type=port, default=8000, help="default: 8000; 0: a free one")
    serve.add_argument("--max-body-mib", type=gibibytes, default=8.0, help="default: 8")
    serve.add_argument(
        "--max-concurrent", type=count, help="requests at once (default: generate.max_in_flight)"
    )
    serve.add_argument("--adapter", action="store_true", help="adapter/ on its base, not export/")
