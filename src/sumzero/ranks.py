"""Which process of how many this is, from the environment a launcher sets.

DeepSpeed and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; `srun` sets SLURM_PROCID, SLURM_NTASKS
and SLURM_LOCALID, and nothing that torch reads. Nor does `deepspeed --launcher slurm`, which is an
`srun` of its own.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ranks:
    """`rank` of `world` processes; `local_rank` of `local_world` on this node."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes, logs and shows progress."""
        return self.rank == 0


def ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks of this process; a lone process is rank 0 of 1.

    SLURM_* count only inside an `srun` step (SLURM_STEP_ID): an sbatch script has them too, though
    it is one process.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        world = int(environment["WORLD_SIZE"])
        return Ranks(
            int(environment["RANK"]),
            world,
            int(environment.get("LOCAL_RANK", 0)),
            int(environment.get("LOCAL_WORLD_SIZE", environment.get("LOCAL_SIZE", world))),
        )
    if "SLURM_STEP_ID" in environment and "SLURM_PROCID" in environment:
        world = int(environment["SLURM_NTASKS"])
        return Ranks(
            int(environment["SLURM_PROCID"]),
            world,
            int(environment["SLURM_LOCALID"]),
            -(-world // int(environment.get("SLURM_NNODES", 1))),
        )
    return Ranks()


def meeting_point(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Host and port of rank 0, where no launcher has set MASTER_ADDR and MASTER_PORT.

    In an `srun` step over several nodes it is the first of them, which has rank 0. Steps that
    follow each other, or run side by side, have ports of their own, all below those that Linux
    takes for outgoing connections. A lone process takes any port that is free (0).
    """
    if ranks(environment).world == 1:
        return "127.0.0.1", 0
    if "RANK" in environment or "SLURM_STEP_ID" not in environment:
        return "127.0.0.1", 29_500
    several = int(environment["SLURM_STEP_NUM_NODES"]) > 1
    host = _first_host(environment["SLURM_STEP_NODELIST"]) if several else "127.0.0.1"
    step = 2 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
    return host, 20_000 + step % 12_000


def _first_host(nodes: str) -> str:
    """The first of the names of which Slurm writes "node[01-03,7],other"."""
    first = re.match(r"([^,[]|\[[^]]*\])*", nodes)
    assert first
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first[0])


def tell_exit(code: int) -> int:
    """Writes rank 0's exit code to the file SUMZERO_EXIT_FILE, where there is one; returns it.

    A launcher's own exit code is not rank 0's: `srun` has the largest of all ranks', of those too
    that it has killed itself, and `deepspeed` has 0 where its agent was killed.
    """
    file = os.environ.get("SUMZERO_EXIT_FILE")
    if file and ranks().is_main:
        Path(file).write_text(f"{code}\n", encoding="utf-8")
    return code
