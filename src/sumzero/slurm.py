"""Slurm's own commands, called with argument lists: nothing of a user's goes through a shell."""

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence

from sumzero.errors import RunError

_PATIENCE = 300.0  # seconds: a controller that is restarted is back by then
_PAUSE = 10.0
Tasks = dict[int | None, tuple[str, str]]  # state and reason by array index; None is no array


def call(
    *arguments: str, patience: float = _PATIENCE, more: Mapping[str, str] | None = None
) -> str:
    """Runs a command of Slurm's, with `more` in its environment, and returns what it printed.

    Raises RunError, with its own words, where there is no Slurm, or the command still fails after
    `patience` seconds.
    """
    end = time.monotonic() + patience
    environment = {**os.environ, **(more or {})}
    while True:
        try:
            done = subprocess.run(
                arguments, capture_output=True, encoding="utf-8", check=False, env=environment
            )
        except FileNotFoundError:
            raise RunError(
                f"{arguments[0]} is not installed here; run this where Slurm's commands are, "
                "on a login node say"
            ) from None
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() >= end:
            said = (done.stderr or done.stdout).strip().replace("\n", "; ")
            raise RunError(f"{' '.join(arguments[:2])}: {said or f'exit code {done.returncode}'}")
        time.sleep(_PAUSE)


def state(id_: str) -> str:
    """The state of a job that runs or waits, such as RUNNING. Raises RunError as `call`."""
    return _ask(id_, "%T")


def requeue(id_: str, exclude: Sequence[str] = ()) -> None:
    """Puts a running job back into the queue, to run on other nodes than those in `exclude`.

    From then on Slurm ends its processes, the caller among them. Raises RunError as `call`.
    """
    before = _ask(id_, "%x").replace("(null)", "") if exclude else ""
    call("scontrol", "requeue", id_)
    if exclude:  # which can be told of a pending job only, and replaces what was told before
        nodes = ",".join(filter(None, [before, *exclude]))
        call("scontrol", "update", f"JobId={id_}", f"ExcNodeList={nodes}")


def queued() -> dict[str, Tasks]:
    """What Slurm holds of all of the user's jobs by number, those too that ended a moment ago.

    Raises RunError as `call`, at once.
    """
    fields = "--format=%F|%K|%T|%r"
    said = call("squeue", "--me", "--noheader", "--array", "--states=all", fields, patience=0)
    found: dict[str, Tasks] = {}
    for line in said.splitlines():
        id_, index, state_, reason = line.split("|", 3)
        found.setdefault(id_, {})[int(index) if index.isdigit() else None] = (state_, reason)
    return found


def accounted(ids: Sequence[str]) -> dict[str, Tasks]:
    """The same from Slurm's accounting, of jobs that it has ended; none where there is none."""
    command = ("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(ids)}")
    try:
        said = call(*command, "--format=JobID,State,ExitCode", patience=0)
    except RunError:
        return {}
    found: dict[str, Tasks] = {}
    for line in said.splitlines():
        name, state_, code = line.split("|")
        number = re.fullmatch(r"(\d+)(?:_(\d+))?", name)
        if number:  # else tasks that wait, of which squeue tells
            index = int(number[2]) if number[2] else None
            code, _, signal = code.partition(":")
            reason = f"exit code {code}" if code != "0" else f"signal {signal}"
            reason = "" if (code, signal) == ("0", "0") else reason
            found.setdefault(number[1], {})[index] = (state_.split()[0], reason)
    return found


def commented(comment: str) -> str | None:
    """The number of the user's job that was submitted with this comment."""
    said = call("squeue", "--me", "--noheader", "--states=all", "--format=%F|%k", patience=0)
    jobs = [line.partition("|") for line in said.splitlines()]
    return next((id_ for id_, _, text in jobs if text == comment), None)


def submit(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submits a job by `sbatch` with these arguments; returns its number. Raises as `call`."""
    said = call("sbatch", "--parsable", *arguments, patience=0, more=environment)
    return said.strip().partition(";")[0]  # a cluster's name may follow


def cancel(ids: Sequence[str]) -> None:
    """Cancels jobs; those that have ended are as they were. Raises RunError as `call`."""
    call("scancel", *ids, patience=0)


def gpus_per_node() -> int:
    """The largest number of GPUs that a node of the cluster has. Raises RunError as `call`."""
    said = call("sinfo", "--noheader", "--format=%G", patience=0)
    return max((int(n) for n in re.findall(r"\bgpu(?::[^:,()\s]+)?:(\d+)", said)), default=0)


def _ask(id_: str, field: str) -> str:
    # No names are asked for: they are the user's text.
    command = ("squeue", "--noheader", "--states=all", f"--jobs={id_}", f"--format={field}")
    return call(*command).split("\n")[0].strip()
