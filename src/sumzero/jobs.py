"""The Slurm jobs of a run: which were submitted, and what has become of each.

    runs/NAME/jobs.json   one entry a job, in the order of submission
              logs/       STEP-JOB.log, of an array STEP-JOB_TASK.log

A job's state is what Slurm's queue says; of one that it has forgotten, what its accounting says;
and without that, the last line that the job's script wrote into its log.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sumzero import slurm
from sumzero.runfolder import RunFolder, read_json, write_json

STEPS = ("prepare", "train", "export", "generate", "score")  # of the chain, in order
_ENDS = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
_ENDS |= {"LAUNCH_FAILED", "PREEMPTED", "REVOKED", "TIMEOUT", "UNKNOWN"}
_LAST_LINE = re.compile(r"^sumzero: job \S+ ended with exit code (\d+)$")
_TAIL = 20  # lines of a log that are shown
_TAIL_BYTES = 20_000


@dataclass(frozen=True)
class Job:
    """A job as it was submitted.

    `token` is its comment in Slurm, by which it is found where its number was never received.
    `settings` is a digest of what the step depends on, `options` its shape; `tasks` is the size of
    its array, 0 where it is none.
    """

    step: str
    token: str
    settings: str
    options: list[str]
    tasks: int
    submitted: float
    id: str | None = None


@dataclass(frozen=True)
class Standing:
    """What has become of a job: Slurm's state of it, or UNKNOWN, and why.

    `failed` are the tasks that ended otherwise than well; (None,) is a job that is no array.
    """

    job: Job
    state: str
    reason: str
    is_active: bool
    failed: tuple[int | None, ...]
    log: Path | None

    def tail(self) -> list[str]:
        """The last lines of its log."""
        return _last_lines(self.log) if self.log else []

    def as_dict(self) -> dict[str, Any]:
        """For `status --json`; the log's last lines only where the job has failed."""
        has_failed = bool(self.failed) and self.state != "CANCELLED"
        return {
            "step": self.job.step,
            "job": self.job.id,
            "state": self.state,
            "reason": self.reason,
            "failed_tasks": [index for index in self.failed if index is not None],
            "log": str(self.log) if self.log else None,
            "tail": self.tail() if has_failed else [],
        }


def read(folder: RunFolder) -> list[Job]:
    """The jobs of a run, oldest first; none where none was submitted."""
    file = folder.root / "jobs.json"
    return [Job(**job) for job in read_json(file, "sumzero submit")] if file.is_file() else []


def write(folder: RunFolder, jobs: Sequence[Job]) -> None:
    """Keeps them, atomically."""
    write_json(folder.root / "jobs.json", [asdict(job) for job in jobs])


def latest(folder: RunFolder, queue: dict[str, slurm.Tasks]) -> dict[str, Standing]:
    """Where the newest job of each step stands, in the order of their submission.

    `queue` is Slurm's, by `slurm.queued`. Without it a job that does not say itself how it ended is
    UNKNOWN, though it may be at work.
    """
    newest = {job.step: job for job in read(folder) if job.id}
    gone = [
        str(job.id)
        for job in newest.values()
        if len(queue.get(str(job.id), {})) < max(1, job.tasks)  # wholly, or some of its tasks
    ]
    known = slurm.accounted(gone) if gone else {}
    # What accounting holds to be running, and the queue does not, has ended without its notice.
    ended = {
        id_: {index: task for index, task in tasks.items() if task[0] in _ENDS}
        for id_, tasks in known.items()
    }
    in_order = sorted(newest.values(), key=lambda job: job.submitted)
    return {job.step: _standing(folder, job, queue, ended) for job in in_order}


def log_name(step: str, id_: str) -> str:
    """The name of a step's log, in sbatch's words where `id_` is."""
    return f"{step}-{id_}.log"


def logs(folder: RunFolder) -> Path:
    """The folder of the jobs' logs."""
    return folder.root / "logs"


def _standing(
    folder: RunFolder, job: Job, queue: dict[str, slurm.Tasks], ended: dict[str, slurm.Tasks]
) -> Standing:
    id_ = str(job.id)
    known = {**ended.get(id_, {}), **queue.get(id_, {})}
    found: slurm.Tasks = {}
    for index in range(job.tasks) if job.tasks else (None,):
        found[index] = known.get(index) or _by_log(_log(folder, job, index))
    active = [task for task in found.values() if task[0] not in _ENDS]
    failed = [index for index, task in found.items() if task[0] in _ENDS - {"COMPLETED"}]
    failed.sort(key=lambda index: found[index][0] == "CANCELLED")  # those that say more first
    if active:
        shown = next((task for task in active if task[0] == "RUNNING"), active[0])
    else:
        shown = found[failed[0]] if failed else ("COMPLETED", "")
    log = _log(folder, job, failed[0] if failed else next(iter(found)))
    reason = "" if shown[1] in ("None", "(null)") else shown[1]
    return Standing(
        job, shown[0], reason, bool(active), tuple(failed), log if log.is_file() else None
    )


def _log(folder: RunFolder, job: Job, index: int | None) -> Path:
    return logs(folder) / log_name(job.step, str(job.id) if index is None else f"{job.id}_{index}")


def _by_log(log: Path) -> tuple[str, str]:
    """What the script's last line says; what Slurm itself writes after it does not count."""
    lines = [line for line in _last_lines(log) if not line.startswith("slurmstepd:")]
    said = _LAST_LINE.match(lines[-1]) if lines else None
    if said is None:
        return "UNKNOWN", "Slurm has forgotten it, and its log does not say how it ended"
    return ("FAILED", f"exit code {said[1]}") if int(said[1]) else ("COMPLETED", "")


def _last_lines(log: Path) -> list[str]:
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    # A progress bar's line is what it shows in the end.
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-_TAIL:]
