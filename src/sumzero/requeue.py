"""Whether a training job goes back into Slurm's queue; `slurm/train.sbatch` asks.

    python -m sumzero.requeue --srun CODE --exit-file FILE RUN.toml [key=value ...]

What counts is what rank 0 wrote at its end, not the code of `srun`: that is the largest of all
ranks', of those too that Slurm killed because another one had ended. A finished run is one whose
events say so. Preempted runs and lost ranks go on; so does what ended without a word (out of
memory, a bug, a fault of the hardware), as long as an attempt now and then gets to a new
checkpoint. A user's fault never does.
"""

import argparse
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero import log
from sumzero.errors import EXIT_BAD_NODES, EXIT_FAULT, EXIT_PREEMPTED, EXIT_RANK_LOST, guarded
from sumzero.log import logger
from sumzero.runfile import load, run_file
from sumzero.runfolder import RunFolder, read_json, write_json
from sumzero.slurm import requeue, state
from sumzero.status import training

MAX_RESTARTS = 100
MAX_IN_VAIN = 3  # attempts in a row that reach no new checkpoint


@dataclass(frozen=True)
class Attempt:
    """How an attempt ended: rank 0's exit code, else `srun`'s; and how far it came.

    `in_vain` attempts before it have reached no new checkpoint; `before` and `now` are the steps of
    the newest checkpoint, 0 where there is none.
    """

    code: int
    finished: bool
    before: int
    now: int
    in_vain: int
    restarts: int

    @property
    def in_vain_now(self) -> int:
        """Attempts in a row, this one included, that failed and have reached no new checkpoint."""
        came_on = self.now > self.before or self.code == EXIT_PREEMPTED
        return 0 if came_on else self.in_vain + 1


def verdict(attempt: Attempt) -> tuple[bool, int, str]:
    """Whether it is to run again, the exit code if not, and why, in words."""
    code = attempt.code
    if code == EXIT_FAULT:
        return False, code, "a fault that running it again would not mend; its line stands above"
    if code == 0 and attempt.finished:
        return False, 0, "finished"
    why = {
        0: "it ended before its last step",
        EXIT_PREEMPTED: "it was preempted, and saved",
        EXIT_RANK_LOST: "a rank was lost",
        EXIT_BAD_NODES: "a node is not fit",
    }.get(code, f"it failed with exit code {code}")
    if attempt.restarts >= MAX_RESTARTS:
        return False, code or EXIT_RANK_LOST, f"{why}; it was restarted {attempt.restarts} times"
    if attempt.in_vain_now >= MAX_IN_VAIN:
        why += f"; {attempt.in_vain_now} attempts in a row have reached no new checkpoint"
        return False, code or EXIT_RANK_LOST, why
    return True, code, why


def decide(
    folder: RunFolder, code: int, environment: Mapping[str, str], bad_nodes: list[str]
) -> int:
    """Requeues the job of `environment`, or returns the exit code that it is to end with.

    The run folder's `attempts.json` remembers from one attempt to the next. Raises RunError where
    Slurm refuses.
    """
    id_ = environment["SLURM_JOB_ID"]
    found: dict[str, Any] = {}
    if folder.root.is_dir():
        found = training(folder)
    file = folder.root / "attempts.json"
    past = read_json(file, "sbatch slurm/train.sbatch") if file.is_file() else {}
    past = past if past.get("job") == id_ else {}  # another job's failures are not this one's
    attempt = Attempt(
        code,
        finished=found.get("state") == "finished",
        before=past.get("checkpoint", 0),
        now=found.get("checkpoint_step") or 0,
        in_vain=past.get("in_vain", 0),
        restarts=int(environment.get("SLURM_RESTART_COUNT", 0)),
    )
    again, exit_code, why = verdict(attempt)
    if folder.root.is_dir():
        facts = {"job": id_, "checkpoint": attempt.now, "in_vain": attempt.in_vain_now}
        write_json(file, facts)
    if not again:
        logger.info("job %s: %s", id_, why)
        return exit_code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which requeueing sends to this job's processes
    if state(id_) != "RUNNING":  # cancelled, or requeued by Slurm already
        logger.info("job %s: %s; Slurm ends it", id_, why)
        return exit_code
    away = f" away from {', '.join(bad_nodes)}" if bad_nodes else ""
    logger.info("job %s: %s; it goes back into the queue%s", id_, why, away)
    requeue(id_, bad_nodes)
    return exit_code


def main() -> int:
    """Reads what the script knows, and decides."""
    parser = argparse.ArgumentParser(prog="python -m sumzero.requeue")
    parser.add_argument("--srun", type=int, required=True, help="exit code of srun")
    parser.add_argument("--exit-file", type=Path, required=True, help="where rank 0 wrote its own")
    parser.add_argument("--bad-nodes", type=Path, help="a file of nodes to stay away from")
    parser.add_argument("run", help="the TOML run file")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    log.configure()
    said = options.exit_file.read_text().strip() if options.exit_file.is_file() else ""
    bad = options.bad_nodes.read_text().split() if options.bad_nodes else []
    code = int(said) if said else options.srun
    if code == EXIT_FAULT:  # the run file itself may be at fault
        return verdict(Attempt(code, False, 0, 0, 0, 0))[1]
    folder = RunFolder.of(load(run_file(options.run), options.overrides))
    return decide(folder, code, os.environ, bad)


if __name__ == "__main__":
    sys.exit(guarded(main))
