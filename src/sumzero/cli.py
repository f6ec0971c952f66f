"""The `sumzero` command: one subcommand a stage, each with a run file and overrides."""

import argparse
import os
import sys
from pathlib import Path

from sumzero import __version__, log
from sumzero.cluster_options import add_cluster
from sumzero.errors import guarded
from sumzero.evaluation_options import add_evaluation
from sumzero.generation_options import add_generation
from sumzero.subcommands import Command, Subcommands
from sumzero.training_options import add_training


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `sumzero`. Returns the exit code: 2 for a fault the user can mend."""
    return guarded(lambda: _main(arguments))


def _main(arguments: list[str] | None) -> int:
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    if more:  # overrides that stand after an option
        if not hasattr(options, "overrides") or any(text.startswith("-") for text in more):
            parser.error(f"unrecognized arguments: {' '.join(more)}")
        options.overrides = [*options.overrides, *more]
    log.configure()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")):
        # DeepSpeed, which transformers imports, would warn that it found no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    command: Command = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sumzero",
        description="Fine-tune language models for summarization; serve and score them.",
        epilog="Training itself is started by DeepSpeed: "
        "deepspeed --module sumzero.train RUN.toml [key=value ...]",
    )
    parser.add_argument("--version", action="version", version=f"sumzero {__version__}")
    to = Subcommands(parser)
    add_training(to)
    add_generation(to)
    add_evaluation(to)
    add_cluster(to)
    return parser


if __name__ == "__main__":
    sys.exit(main())
