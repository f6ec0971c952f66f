"""`deepspeed --module sumzero.train RUN.toml [key=value ...]`: trains, on every rank."""

import argparse
import sys
import warnings

from sumzero import log
from sumzero.errors import EXIT_PREEMPTED, guarded
from sumzero.imports import uncollected
from sumzero.ranks import ranks, tell_exit
from sumzero.runfile import load, run_file
from sumzero.signals import end_as_preempted


def main() -> int:
    """Reads the run file and trains. Returns the exit code; `sumzero.errors` lists them."""
    parser = argparse.ArgumentParser(
        prog="deepspeed --module sumzero.train",
        description="Fine-tune on prepared data, on all ranks of the launch.",
        epilog="example: deepspeed --num_gpus 8 --module sumzero.train recipes/scitldr.toml "
        "train.lr=1e-5",
    )
    parser.add_argument("run", help="the TOML run file, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher adds it
    arguments = parser.parse_args()
    who = ranks()
    log.configure(who)
    end_as_preempted()
    warnings.filterwarnings("ignore", category=FutureWarning)
    config = load(run_file(arguments.run), arguments.overrides)

    with uncollected():
        from sumzero.train.loop import train  # after the arguments: torch takes seconds to import

    return 0 if train(config, who) else EXIT_PREEMPTED


if __name__ == "__main__":
    sys.exit(tell_exit(guarded(main, is_main_rank=ranks().is_main)))
