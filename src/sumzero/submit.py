"""`sumzero submit` and `sumzero cancel`: a run's chain of jobs into Slurm's queue, and out of it.

What was submitted is what runs: the settings are kept in runs/NAME/submitted.toml, which the jobs
read. A step that is in the queue, or was done with the same settings, is not submitted again. Each
job is written down before Slurm is given it, so that a kill in between does not double it.
"""

import os
import re
import shlex
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tomli_w

from sumzero import jobs, slurm
from sumzero.chain import Step, lacks
from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError, SumZeroError
from sumzero.jobs import STEPS, Job, Standing
from sumzero.log import logger
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, alone, atomic_file

_CLONE = Path(__file__).resolve().parents[2] / "slurm"


@dataclass(frozen=True)
class Submitted:
    """A step, its job, and what was done: "submitted", "in the queue" or "done"."""

    step: str
    job: str
    done: str
    after: str = ""


def submit(
    config: RunConfig, steps: Sequence[Step], extra: Sequence[str] = (), *, again: bool = False
) -> list[Submitted]:
    """Submits what is neither in the queue nor done; `extra` are options for sbatch.

    An option can be for one step: "train:--time=48:00:00". With `again`, what is done is done once
    more. Raises RunError where a step is in the queue with other settings, or Slurm refuses a job;
    none of this call's is left in the queue then.
    """
    folder = RunFolder.of(config)
    commands(config, steps, extra)  # what is wrong with them is said before anything is made
    if not folder.root.is_dir() and (missing := lacks(steps, folder)):
        raise RunError(missing)
    with alone(folder.root, "sumzero submit", lock=".submit.lock"):
        _adopt(folder)
        have = jobs.latest(folder)
        todo = _todo(steps, have, folder, again=again)
        if not any(x.is_active for x in have.values()) and (missing := lacks(todo, folder)):
            raise RunError(missing)
        return _submit_all(config, folder, steps, todo, have, extra)


def commands(config: RunConfig, steps: Sequence[Step], extra: Sequence[str] = ()) -> list[str]:
    """What `submit` would run, as lines of a shell, where nothing is in the queue or done."""
    folder = RunFolder.of(config)
    names: dict[str, str] = {}
    lines = []
    for step in steps:
        job = Job(step.name, "TOKEN", step.settings, list(step.options), step.tasks, 0.0)
        arguments = _arguments(folder, step, job, step.after(names), extra)
        lines.append(shlex.join(["sbatch", *arguments]))
        names[step.name] = f"<{step.name}>"
    return lines


def cancel(folder: RunFolder) -> list[Standing]:
    """Cancels the jobs of a run that are in the queue, and returns them.

    Raises RunError where the run has no jobs, or Slurm does not answer.
    """
    with alone(folder.root, "sumzero submit", lock=".submit.lock"):
        _adopt(folder)
        slurm.queued()  # says it where Slurm does not answer
        active = [found for found in jobs.latest(folder).values() if found.is_active]
        if active:
            slurm.cancel([str(found.job.id) for found in active])
        return active


def scripts() -> Path:
    """The folder of the sbatch files. Raises RunError where there is none."""
    given = os.environ.get("SUMZERO_SLURM")
    for folder in [Path(given)] if given else [Path("slurm"), _CLONE]:
        if (folder / "env.sh").is_file():
            return folder.resolve()
    raise RunError(
        f"{given or 'slurm'}: no sbatch files of SumZero's there; set SUMZERO_SLURM to the folder "
        "slurm/ of its repository"
    )


def table(done: Sequence[Submitted], folder: RunFolder) -> str:
    """The jobs for people to read."""
    rows = [("step", "job", "", "after")]
    rows += [(x.step, x.job, x.done, x.after) for x in done]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    follow = shlex.join(["sumzero", "status", str(folder.root)])
    return "\n".join([*(line.rstrip() for line in lines), f"logs: {jobs.logs(folder)}", follow])


def _adopt(folder: RunFolder) -> None:
    """Looks for jobs whose numbers were never received, and forgets those that Slurm never got."""
    known = jobs.read(folder)
    if all(job.id for job in known):
        return
    found = [job if job.id else replace(job, id=slurm.commented(job.token)) for job in known]
    jobs.write(folder, [job for job in found if job.id])


def _todo(
    steps: Sequence[Step], have: dict[str, Standing], folder: RunFolder, *, again: bool
) -> list[Step]:
    """The steps to submit now. Raises RunError where one in the queue is not as it would be."""
    active = [name for name in STEPS if name in have and have[name].is_active]
    last = STEPS.index(active[-1]) if active else -1  # of the chain in the queue
    todo: list[Step] = []
    convert: list[Step] = []
    for step in steps:
        found = have.get(step.name)
        if found and found.is_active:
            _check_same(step, found, folder)
        elif step.name in STEPS and STEPS.index(step.name) < last:
            if again:
                raise RunError(
                    f"job {have[active[-1]].job.id} ({active[-1]}) is in the queue, and needs "
                    f"{step.name} as it is; `{_cancel(folder)}` first"
                )
        elif step.name == "convert":
            convert = [step]  # of use only where a training follows
        else:
            is_done = (
                found is not None
                and found.state == "COMPLETED"
                and found.job.settings == step.settings
                and (step.is_done(folder) or step.is_beside)
            )
            if again or todo or active or not is_done:
                todo += [*convert, step] if step.name == "train" else [step]
    return todo


def _cancel(folder: RunFolder) -> str:
    return shlex.join(["sumzero", "cancel", str(folder.root)])


def _check_same(step: Step, found: Standing, folder: RunFolder) -> None:
    what = f"job {found.job.id} ({step.name})"
    if found.failed:
        raise RunError(
            f"{what}: a task has failed while others are in the queue; wait for them, or "
            f"`{_cancel(folder)}`, then submit again"
        )
    if (found.job.settings, found.job.options) != (step.settings, list(step.options)):
        raise RunError(
            f"{what}: is in the queue with other settings or another shape; "
            f"`{_cancel(folder)}` first"
        )


def _submit_all(
    config: RunConfig,
    folder: RunFolder,
    steps: Sequence[Step],
    todo: Sequence[Step],
    have: dict[str, Standing],
    extra: Sequence[str],
) -> list[Submitted]:
    if todo:
        jobs.logs(folder).mkdir(exist_ok=True)
        with atomic_file(folder.root / "submitted.toml") as out:
            out.write(tomli_w.dumps(as_dict(config)))
    before = jobs.read(folder)
    numbers: dict[str, str] = {}
    made: list[Submitted] = []
    new: list[str] = []
    try:
        for step in steps:
            found = have.get(step.name)
            if step in todo:
                after = step.after(numbers)
                numbers[step.name] = _submit(folder, step, after, extra)
                new.append(numbers[step.name])
                made.append(Submitted(step.name, numbers[step.name], "submitted", after))
            elif found and found.is_active:
                numbers[step.name] = str(found.job.id)
                made.append(
                    Submitted(step.name, numbers[step.name], f"in the queue: {found.state}")
                )
            elif step.name in STEPS or found:  # else a conversion that nothing needs
                made.append(Submitted(step.name, str(found.job.id) if found else "-", "done"))
    except SumZeroError:
        if new:  # a chain without its end is of no use
            slurm.cancel(new)
        jobs.write(folder, before)
        raise
    return made


def _submit(folder: RunFolder, step: Step, after: str, extra: Sequence[str]) -> str:
    token = f"sumzero-{uuid.uuid4().hex}"
    job = Job(step.name, token, step.settings, list(step.options), step.tasks, time.time())
    known = jobs.read(folder)
    jobs.write(folder, [*known, job])
    arguments = _arguments(folder, step, job, after, extra)
    id_ = slurm.submit(arguments, {"SUMZERO_SLURM": str(scripts())})
    jobs.write(folder, [*known, replace(job, id=id_)])
    logger.debug("job %s: %s", id_, shlex.join(arguments))
    return id_


def _arguments(
    folder: RunFolder, step: Step, job: Job, after: str, extra: Sequence[str]
) -> list[str]:
    root = folder.root.absolute()
    where = str(jobs.logs(RunFolder(root)))
    if re.search(r"[\\\n]", where):
        raise ConfigError(f"runs: {where!r}: Slurm cannot write logs below a name with \\ in it")
    log = job.log_name("%A_%a" if job.tasks else "%j")
    dependency = (f"--dependency={after}", "--kill-on-invalid-dep=yes") if after else ()
    return [
        f"--job-name={folder.root.name}-{step.name}",
        f"--comment={job.token}",
        f"--output={where.replace('%', '%%')}/{log}",
        *dependency,
        *step.options,
        *_extra(step.name, extra),
        str(scripts() / step.script),
        str(root / "submitted.toml"),
        *step.arguments,
    ]


def _extra(name: str, extra: Sequence[str]) -> list[str]:
    """Those of the options that are for this step. Raises ConfigError where one is none."""
    mine = []
    for text in extra:
        form = re.fullmatch(r"(?:([a-z-]+):)?(-.*)", text, re.DOTALL)
        if form is None or form[1] not in (None, *STEPS, "convert", "score-checkpoints"):
            raise ConfigError(
                f"--sbatch {text}: write --sbatch=--OPTION=VALUE, or --sbatch=STEP:--OPTION=VALUE"
            )
        if form[1] in (None, name):
            mine.append(form[2])
    return mine
