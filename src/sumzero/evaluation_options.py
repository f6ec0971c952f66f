"""Subcommands that score and report, with their options."""

from sumzero import commands
from sumzero.compare_command import add_compare
from sumzero.subcommands import Subcommands


def add_evaluation(to: Subcommands) -> None:
    """Adds them."""
    score = to.add_stage(
        "score",
        commands.score,
        "Score all generated systems against the references.",
        "sumzero score runs/scitldr --json",
    )
    score.add_argument("--json", action="store_true", help="print one JSON object")
    score.add_argument(
        "--slices",
        action="store_true",
        help="print too what tasks, languages, lengths, and cut rows scored by themselves",
    )
    scored = to.add_stage(
        "score-checkpoints",
        commands.score_checkpoints,
        "Score each checkpoint on the validation records, and link the best by ROUGE.",
        "sumzero score-checkpoints runs/scitldr --follow",
    )
    scored.add_argument("--follow", action="store_true", help="go on until the training has ended")
    add_compare(to)
    to.add_stage("report", commands.report, "Write report.html.", "sumzero report runs/scitldr")
