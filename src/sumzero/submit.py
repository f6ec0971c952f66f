"""`sumzero submit` and `sumzero cancel`: a run's chain of jobs into Slurm's queue, and out of it.

What was submitted is what runs: the settings are kept in runs/NAME/submitted.toml, which the jobs
read. A step that is in the queue, or was done with the same settings, is not submitted again. Each
job is written down before Slurm is given it, so that a kill in between does not double it.
"""

import shlex
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import tomli_w

from sumzero import jobs, slurm
from sumzero.chain import Step, digests, lacks
from sumzero.config import RunConfig
from sumzero.errors import RunError, SumZeroError
from sumzero.jobs import STEPS, Job, Standing
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, alone, atomic_file
from sumzero.sbatch import SETTINGS, arguments, options_of, scripts

_LOCK = ".submit.lock"
_ENDING = 120.0  # seconds that a job may take to end after it was cancelled
_PAUSE = 1.0


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

    With `again`, what is done is done once more. Raises RunError where a step is in the queue with
    other settings, something that the first step needs is missing, or Slurm does not answer or
    refuses a job; none of this call's is left in the queue then. Raises ConfigError where an option
    is none.
    """
    folder = RunFolder.of(config)
    _lines(folder, steps, steps, {}, extra)  # what is wrong with options is said first
    if not folder.root.is_dir() and (missing := lacks(steps, folder)):
        raise RunError(missing)
    with alone(folder.root, "sumzero submit", lock=_LOCK):
        _adopt(folder)
        have = _settled(folder)
        todo = _todo(config, steps, have, extra, again=again)
        return _submit_all(config, steps, todo, have, extra)


def commands(
    config: RunConfig, steps: Sequence[Step], extra: Sequence[str] = (), *, again: bool = False
) -> list[str]:
    """What `submit` would run now, a line a job; a job that has no number yet is <STEP>.

    Raises as `submit`, which Slurm could still refuse.
    """
    folder = RunFolder.of(config)
    have = jobs.latest(folder, slurm.queued()) if jobs.read(folder) else {}
    todo = _todo(config, steps, have, extra, again=again)
    return _lines(folder, steps, todo, have, extra)


def cancel(folder: RunFolder) -> list[Standing]:
    """Cancels the jobs of a run that are in the queue, and returns them.

    Raises RunError where the run has no jobs, or Slurm does not answer.
    """
    if not jobs.read(folder):
        raise RunError(f"{folder.root}: no jobs were submitted for it")
    with alone(folder.root, "sumzero cancel", lock=_LOCK):
        _adopt(folder)
        have = jobs.latest(folder, slurm.queued())
        active = [found for found in have.values() if found.is_active]
        if active:
            slurm.cancel([str(found.job.id) for found in active])
        return active


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


def _settled(folder: RunFolder) -> dict[str, Standing]:
    """Where the jobs stand, once none is about to end: how it ends is what counts."""
    if not jobs.read(folder):
        return {}
    end = time.monotonic() + _ENDING
    while True:
        have = jobs.latest(folder, slurm.queued())
        ending = [found for found in have.values() if found.state == "COMPLETING"]
        if not ending:
            return have
        if time.monotonic() >= end:
            raise RunError(f"job {ending[0].job.id} is ending; submit again when it has ended")
        time.sleep(_PAUSE)


def _todo(
    config: RunConfig,
    steps: Sequence[Step],
    have: dict[str, Standing],
    extra: Sequence[str],
    *,
    again: bool,
) -> list[Step]:
    """The steps to submit now. Raises RunError where one in the queue is not as it would be."""
    folder = RunFolder.of(config)
    active = [name for name in STEPS if name in have and have[name].is_active]
    wanted = digests(config)
    for name in active:  # those that are not asked for, too: they read the same settings
        _check_same(have[name], wanted[name], folder)
    last = STEPS.index(active[-1]) if active else -1  # of the chain in the queue
    todo: list[Step] = []
    convert: list[Step] = []
    for step in steps:
        found = have.get(step.name)
        if found and found.is_active:
            _check_same(found, step.settings, folder, options_of(step, extra))
        elif step.name in STEPS and STEPS.index(step.name) < last:
            if again or not _is_done(step, found, folder):
                raise RunError(
                    f"{step.name} is to be done, but job {have[active[-1]].job.id} ({active[-1]}), "
                    f"which comes after it, is in the queue; `{_cancel(folder)}` first"
                )
        elif step.name == "convert":
            convert = [step]  # of use only where a training follows
        elif again or todo or active or found is None or not _is_done(step, found, folder):
            todo += [*convert, step] if step.name == "train" else [step]
    if not active and (missing := lacks(todo, folder)):
        raise RunError(missing)
    return todo


def _is_done(step: Step, found: Standing | None, folder: RunFolder) -> bool:
    """Whether its result is there, by its last job with the same settings, or without a job."""
    if found is None:
        return step.is_done(folder)
    is_same = found.state == "COMPLETED" and found.job.settings == step.settings
    return is_same and (step.is_done(folder) or step.is_beside)


def _check_same(
    found: Standing, settings: str, folder: RunFolder, options: list[str] | None = None
) -> None:
    what = f"job {found.job.id} ({found.job.step})"
    if found.failed:
        raise RunError(
            f"{what}: a task has failed while others are in the queue; wait for them, or "
            f"`{_cancel(folder)}`, then submit again"
        )
    is_other = options is not None and found.job.options != options
    if found.job.settings.partition(":")[0] != settings.partition(":")[0] or (
        options is not None and (is_other or found.job.settings != settings)
    ):
        raise RunError(
            f"{what}: is in the queue with other settings or another shape; "
            f"`{_cancel(folder)}` first"
        )


def _cancel(folder: RunFolder) -> str:
    return shlex.join(["sumzero", "cancel", str(folder.root)])


def _numbers(have: dict[str, Standing]) -> dict[str, str]:
    """Of the jobs in the queue, by step, in the order of the chain."""
    order = [*STEPS[:1], "convert", "train", "score-checkpoints", *STEPS[2:]]
    return {name: str(have[name].job.id) for name in order if name in have and have[name].is_active}


def _lines(
    folder: RunFolder,
    steps: Sequence[Step],
    todo: Sequence[Step],
    have: dict[str, Standing],
    extra: Sequence[str],
) -> list[str]:
    numbers = _numbers(have)
    lines = []
    for step in (step for step in steps if step in todo):
        options = options_of(step, extra)
        words = arguments(folder, step, options, "TOKEN", step.after(numbers))
        lines.append(shlex.join(["sbatch", *words]))
        numbers[step.name] = f"<{step.name}>"
    return lines


def _submit_all(
    config: RunConfig,
    steps: Sequence[Step],
    todo: Sequence[Step],
    have: dict[str, Standing],
    extra: Sequence[str],
) -> list[Submitted]:
    folder = RunFolder.of(config)
    before = jobs.read(folder)
    numbers = _numbers(have)
    made: list[Submitted] = []
    if todo:
        jobs.logs(folder).mkdir(exist_ok=True)
        with atomic_file(folder.root / SETTINGS) as out:
            out.write(tomli_w.dumps(as_dict(config)))
    try:
        for step in steps:
            found = have.get(step.name)
            if step in todo:
                after = step.after(numbers)
                numbers[step.name] = _submit(folder, step, options_of(step, extra), after)
                made.append(Submitted(step.name, numbers[step.name], "submitted", after))
            elif found and found.is_active:
                at = f"in the queue: {found.state}"
                made.append(Submitted(step.name, str(found.job.id), at))
            elif step.name in STEPS or found:  # else a conversion that nothing needs
                made.append(Submitted(step.name, str(found.job.id) if found else "-", "done"))
    except SumZeroError:
        with suppress(RunError):  # else the next call finds them, by what is written down
            _withdraw(folder, before)
        raise
    return made


def _withdraw(folder: RunFolder, before: list[Job]) -> None:
    """Cancels what is not of `before`: a chain without its end is of no use.

    One that Slurm took, though `sbatch` had no answer, is among them.
    """
    _adopt(folder)
    ids = {str(job.id) for job in jobs.read(folder)} - {str(job.id) for job in before}
    if ids:
        slurm.cancel(sorted(ids))
    jobs.write(folder, before)


def _submit(folder: RunFolder, step: Step, options: list[str], after: str) -> str:
    token = f"sumzero-{uuid.uuid4().hex}"
    job = Job(step.name, token, step.settings, options, step.tasks, time.time())
    known = jobs.read(folder)
    jobs.write(folder, [*known, job])
    # Not what the submitting shell may have for another run.
    environment = {"SUMZERO_SLURM": str(scripts()), "SUMZERO_SYSTEMS": "finetuned"}
    id_ = slurm.submit(arguments(folder, step, options, token, after), environment)
    jobs.write(folder, [*known, replace(job, id=id_)])
    return id_
