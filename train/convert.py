"""`sumzero convert`: a checkpoint's universal form ahead of a resume on another number of ranks."""

from pathlib import Path

from sumzero.config import RunConfig
from sumzero.runfolder import RunFolder, alone
from sumzero.train import checkpoint, universal


def convert(config: RunConfig, name: str | None = None, workers: int = 1) -> Path:
    """Converts a checkpoint, by default the newest whole one; returns the converted folder.

    It needs no process group and no GPU; `workers` processes read and write. Raises RunError where
    there is no such checkpoint, it is damaged, or its optimizer lies on NVMe.
    """
    folder = RunFolder.of(config)
    name = checkpoint.resolve(folder.checkpoints, name)
    with alone(folder.root, "sumzero convert"):
        state = checkpoint.verified(folder.checkpoints, name)
        universal.check_convertible(state, folder.checkpoints / name)
        return universal.make(folder.checkpoints, name, state, workers)
