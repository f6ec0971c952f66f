"""Subcommands for Slurm jobs, with their options."""

from sumzero import commands
from sumzero.jobs import STEPS
from sumzero.subcommands import Subcommands, count, count_or_none


def add_cluster(to: Subcommands) -> None:
    """Adds them."""
    submit = to.add_stage(
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
    submit.add_argument("--nodes", type=count, default=1, help="that train (default: 1)")
    submit.add_argument(
        "--gpus-per-node", type=count_or_none, help="default: what Slurm's nodes have"
    )
    submit.add_argument(
        "--ranks-per-node", type=count, help="training processes; default: one a GPU, 1 without"
    )
    submit.add_argument(
        "--shards", type=count, help="tasks that generate (default: as many as fit on --nodes)"
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
    to.add_stage(
        "cancel", commands.cancel, "Cancel a run's Slurm jobs.", "sumzero cancel runs/scitldr"
    )
    status = to.add_stage(
        "status",
        commands.status,
        "What a run is doing: state, rate, time left; its Slurm jobs, and why one failed.",
        "sumzero status runs/scitldr --json",
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
