"""Slurm's own commands, called with argument lists: nothing of a user's goes through a shell."""

import subprocess
import time
from collections.abc import Sequence

from sumzero.errors import RunError

_PATIENCE = 300.0  # seconds: a controller that is restarted is back by then
_PAUSE = 10.0


def call(*arguments: str) -> str:
    """Runs a command of Slurm's and returns what it printed.

    Raises RunError, with its own words, where there is no Slurm, or the command fails again and
    again for five minutes.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            done = subprocess.run(arguments, capture_output=True, encoding="utf-8", check=False)
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


def _ask(id_: str, field: str) -> str:
    # No names are asked for: they are the user's text.
    command = ("squeue", "--noheader", "--states=all", f"--jobs={id_}", f"--format={field}")
    return call(*command).split("\n")[0].strip()
