"""Subcommands that score and report, with their options."""

from sumzero import commands, explain_command
from sumzero.compare_command import add_compare
from sumzero.report_command import add_report
from sumzero.subcommands import Subcommands, count


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
    add_report(to)
    explain = to.add_stage(
        "explain",
        explain_command.explain,
        "Find out which sentences of its document each sentence of a summary depends on.",
        "sumzero explain runs/scitldr --sample 50",
    )
    explain.add_argument(
        "--system", default="finetuned", help="whose summaries: finetuned (default) or untrained"
    )
    explain.add_argument("--sample", type=count, default=200, help="how many; default: 200")
    explain.add_argument(
        "--id", action="append", metavar="ID", help="of this record; may be given several times"
    )
    explain.add_argument("--json", action="store_true", help="print one JSON object")
