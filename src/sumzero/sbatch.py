"""The arguments that `sbatch` is given for a step of a chain: ours, the step's, the user's.

They are a list, and no shell reads it. The only pattern of Slurm's is the name of the log.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sumzero import jobs
from sumzero.chain import Step
from sumzero.errors import ConfigError, RunError
from sumzero.jobs import STEPS
from sumzero.runfolder import RunFolder

SETTINGS = "submitted.toml"
_CLONE = Path(__file__).resolve().parents[2] / "slurm"
_OTHERS = ("convert", "score-checkpoints")
# What `submit` gives itself and reckons with, and what to say instead.
_OURS = {
    **dict.fromkeys(("nodes", "N", "ntasks-per-node", "gpus-per-node"), "use --nodes and the like"),
    **dict.fromkeys(("ntasks", "n", "gpus", "G", "gres"), "use --nodes and --gpus-per-node"),
    **dict.fromkeys(("array", "a"), "use --shards"),
    **dict.fromkeys(("dependency", "d", "kill-on-invalid-dep"), "the chain has its own"),
    **dict.fromkeys(("output", "o", "job-name", "J", "comment"), "`sumzero status` needs its own"),
    **dict.fromkeys(("parsable", "test-only", "wait", "W", "wrap", "chdir", "D"), "not in a chain"),
}


def scripts() -> Path:
    """The folder of the sbatch files. Raises RunError where there is none."""
    given = os.environ.get("SUMZERO_SLURM")
    for folder in [Path(given)] if given else [Path("slurm"), _CLONE]:
        if (folder / "job.sh").is_file():
            return folder.resolve()
    raise RunError(
        f"{given or 'slurm'}: no sbatch files of SumZero's there; set SUMZERO_SLURM to the folder "
        "slurm/ of its repository"
    )


def arguments(
    folder: RunFolder, step: Step, options: Sequence[str], token: str, after: str
) -> list[str]:
    """What `sbatch` is given; `options` are as `options_of` has them, `after` is its dependency.

    Raises ConfigError where Slurm could not write a log in such a folder, RunError as `scripts`.
    """
    root = folder.root.absolute()
    where = str(jobs.logs(RunFolder(root)))
    if re.search(r"[\\\n]", where):
        raise ConfigError(
            f"runs: {where!r}: Slurm cannot write logs in a folder with \\ in its name"
        )
    log = jobs.log_name(step.name, "%A_%a" if step.tasks else "%j")
    dependency = (f"--dependency={after}", "--kill-on-invalid-dep=yes") if after else ()
    return [
        f"--job-name={folder.root.name}-{step.name}",
        f"--comment={token}",
        f"--output={where.replace('%', '%%')}/{log}",
        *dependency,
        *options,
        str(scripts() / step.script),
        str(root / SETTINGS),
        *step.arguments,
    ]


def options_of(step: Step, extra: Sequence[str]) -> list[str]:
    """The step's own options, and those of the user's that are for it: "[STEP:]--OPTION".

    Raises ConfigError where one of the user's is none, or is not theirs to give.
    """
    mine = list(step.options)
    for text in extra:
        form = re.fullmatch(r"(?:([a-z-]+):)?(--?([A-Za-z-]+).*)", text, re.DOTALL)
        if form is None or form[1] not in (None, *STEPS, *_OTHERS):
            raise ConfigError(
                f"--sbatch {text}: write --sbatch=--OPTION=VALUE, or --sbatch=STEP:--OPTION=VALUE"
            )
        name = form[3] if form[2].startswith("--") else form[3][0]
        if name in _OURS:
            raise ConfigError(f"--sbatch {text}: {_OURS[name]}")
        if form[1] in (None, step.name):
            mine.append(form[2])
    return mine
