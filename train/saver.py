"""Saving: every rank writes its shard beside, rank 0 verifies, renames, points to it and prunes.

No rank is left waiting by another's full disk: faults are told to all before any is raised.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sumzero.config import Train
from sumzero.errors import RunError, SumZeroError
from sumzero.ranks import Ranks
from sumzero.train import universal
from sumzero.train.checkpoint import (
    DAMAGED,
    OLD,
    PARTIAL,
    on_main,
    point,
    remove,
    step_of,
    whole,
)
from sumzero.train.engine import Engine
from sumzero.train.manifest import is_written, write_manifest, write_part
from sumzero.train.shards import ShardFiles, flush_folder


@dataclass
class _Unfinished:
    """A save whose files are being written."""

    name: str
    state: dict[str, Any]
    best: bool
    files: ShardFiles
    about: dict[str, Any]
    begun: float
    stalled: float | None = None  # seconds that training stood still, of one that is written later
    is_committed: bool = False


class Saver:
    """Saves the checkpoints of a run; all ranks hold one and call `save` and `finish` together.

    `tell` is called on rank 0 of each that is whole, with its step and the seconds that training
    stood still for it.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        who: Ranks,
        train: Train,
        tell: Callable[[int, float], None] = lambda step, seconds: None,
    ) -> None:
        self._tell = tell
        self._engine = engine
        self._folder = folder
        self._who = who
        self._train = train
        self._unfinished: _Unfinished | None = None
        self.longest: float | None = None
        """Seconds from `save` until the checkpoint was whole, of all so far; known to rank 0."""

    def save(self, step: int, state: dict[str, Any], *, best: bool = False) -> float:
        """Saves as step-N, with `state` as it is; returns the seconds that training stood still.

        With `train.save_async` it returns once this rank's shard is copied to host memory; the
        checkpoint appears when every rank has written its own, at the latest in the next `save` or
        `finish`. Raises RunError on all ranks where one of them could not write: nothing then
        appears under the checkpoint's name, and those before it are as they were.
        """
        begun = time.perf_counter()
        self.finish()
        name = f"step-{step:06d}"
        on_main(self._who, lambda: self._prepare(name))
        later = self._train.save_async
        self._unfinished = _Unfinished(
            name,
            {"step": step, **state},
            best,
            self._engine.save(self._folder, name + PARTIAL, later=later),
            {"layout": self._engine.layout, "trained": self._engine.trained, "best": best},
            begun,
        )
        self._unfinished.files.start(self._write_part)
        if not later:
            self.finish()
            return time.perf_counter() - begun
        self._unfinished.stalled = time.perf_counter() - begun
        return self._unfinished.stalled

    def poll(self) -> None:
        """Gives the checkpoint its name if all ranks have written it.

        To be called between steps. Only rank 0 of an asynchronous save has something to do: it
        looks for the files of the others, and sends nothing.
        """
        unfinished = self._unfinished
        if unfinished is None or unfinished.is_committed or not self._who.is_main:
            return
        if unfinished.files.error is None and is_written(
            self._folder / (unfinished.name + PARTIAL), self._who.world
        ):
            try:
                self._commit(unfinished)
            except (SumZeroError, OSError) as error:
                unfinished.files.error = error

    def finish(self) -> float:
        """Waits until the last save is whole; returns the seconds. Raises RunError as `save`."""
        begun = time.perf_counter()
        unfinished = self._unfinished
        if unfinished is None:
            return 0.0
        unfinished.files.join()
        faults: list[str | None] = [None] * self._who.world
        dist.all_gather_object(faults, _described(unfinished.files.error))
        self._unfinished = None
        told = [f"rank {rank}: {fault}" for rank, fault in enumerate(faults) if fault is not None]
        on_main(self._who, lambda: self._settle(unfinished, failed=bool(told)))
        if told:
            raise RunError(
                f"{self._folder / unfinished.name}: not saved ({'; '.join(told)}); the checkpoints "
                "before it are as they were; make room or mend it, then start the run again"
            )
        return time.perf_counter() - begun

    def _prepare(self, name: str) -> None:
        shutil.rmtree(self._folder / (name + PARTIAL), ignore_errors=True)
        (self._folder / (name + PARTIAL)).mkdir(parents=True, exist_ok=True)

    def _write_part(self, records: dict[str, Any]) -> None:
        assert self._unfinished is not None
        write_part(self._folder / (self._unfinished.name + PARTIAL), self._who.rank, records)

    def _settle(self, unfinished: _Unfinished, *, failed: bool) -> None:
        try:
            if not failed and not unfinished.is_committed:
                self._commit(unfinished)
        finally:  # a full disk gets its room back
            if not unfinished.is_committed:
                shutil.rmtree(self._folder / (unfinished.name + PARTIAL), ignore_errors=True)

    def _commit(self, unfinished: _Unfinished) -> None:
        """Makes of the files a checkpoint; on rank 0, once all ranks have written theirs."""
        partial = self._folder / (unfinished.name + PARTIAL)
        whole_ = self._folder / unfinished.name
        write_manifest(partial, self._who.world, unfinished.state, unfinished.about)
        for sub in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            flush_folder(sub)
        old = self._folder / (unfinished.name + OLD)
        if whole_.exists():  # a step is saved twice
            shutil.rmtree(old, ignore_errors=True)
            whole_.rename(old)
        partial.rename(whole_)
        flush_folder(self._folder)
        point(self._folder, "latest", unfinished.name)
        if unfinished.best:
            point(self._folder, "best", unfinished.name)
        unfinished.is_committed = True
        seconds = time.perf_counter() - unfinished.begun
        self.longest = max(self.longest or 0.0, seconds)
        self._tell(step_of(unfinished.name), unfinished.stalled or seconds)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(self._folder / (unfinished.name + DAMAGED), ignore_errors=True)
        universal.remove(self._folder)
        self._prune()

    def _prune(self) -> None:
        names, every = whole(self._folder), self._train.keep_every
        # Besides our own `best`, what others point to: the scoring of checkpoints, or a user.
        linked = {path.readlink().name for path in self._folder.iterdir() if path.is_symlink()}
        kept = {*names[-self._train.keep_last :], *linked}
        for name in names:
            if name not in kept and not (every and step_of(name) % every == 0):
                # Never half a checkpoint under a whole one's name.
                remove((self._folder / name).rename(self._folder / (name + PARTIAL)))


def _described(error: Exception | None) -> str | None:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return None if error is None else str(error) or type(error).__name__
