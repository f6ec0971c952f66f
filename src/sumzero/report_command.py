"""`sumzero report`: a run, and other runs beside it."""

import argparse
from pathlib import Path

from sumzero.run_options import config_of
from sumzero.subcommands import Subcommands


def add_report(to: Subcommands) -> None:
    """Adds it, with its options."""
    command = to.add_stage(
        "report",
        report,
        "Write report.html, beside other runs where they are named, and the export's model card.",
        "sumzero report runs/scitldr runs/scitldr_lora",
    )
    command.usage = "%(prog)s [-h] [--markdown] RUN [RUN_B ...] [key=value ...]"
    command.add_argument(
        "--markdown", action="store_true", help="print the scores for a pull request instead"
    )


def report(options: argparse.Namespace) -> int:
    """The page, or the summary for a pull request.

    What stands after the run is another run, or a setting of all of them.
    """
    from sumzero.infer.report import pull_request, report

    given = options.overrides
    options.overrides = [text for text in given if "=" in text and not Path(text).exists()]
    runs = [text for text in given if text not in options.overrides]
    others = [config_of(argparse.Namespace(run=run, overrides=options.overrides)) for run in runs]
    if options.markdown:
        print(pull_request(config_of(options), others), end="")
    else:
        print(report(config_of(options), others))
    return 0
