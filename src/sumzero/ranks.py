"""Which process of how many this is, from the environment a launcher sets.

DeepSpeed and torchrun set RANK, WORLD_SIZE and LOCAL_RANK; `srun` sets SLURM_PROCID, SLURM_NTASKS
and SLURM_LOCALID, and nothing that torch reads.
"""

import os
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


def tell_exit(code: int) -> int:
    """Writes rank 0's exit code to the file SUMZERO_EXIT_FILE, where there is one; returns it.

    A launcher's own exit code is not rank 0's: `srun` has the largest of all ranks', of those too
    that it has killed itself, and `deepspeed` has 0 where its agent was killed.
    """
    file = os.environ.get("SUMZERO_EXIT_FILE")
    if file and ranks().is_main:
        Path(file).write_text(f"{code}\n", encoding="utf-8")
    return code
