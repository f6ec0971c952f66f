"""Which task generates which records, and the files that their rows are in.

    generations/FINGERPRINT/shard-00001-of-00004.jsonl   rows as they finish, append-only

Documents are dealt out by estimated cost, longest first, each to the shard that has the least so
far; records of one document stay together, since they share its prefix in the engine's cache. What
is dealt depends on the records alone, so that tasks need not speak with each other. A row counts in
whatever file it stands: the same generation can be finished in another number of shards.
"""

import fcntl
import heapq
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sumzero.errors import RunError
from sumzero.infer.rows import Row, whole_bytes
from sumzero.log import logger
from sumzero.runfolder import alone, try_lock

_BYTES_PER_TOKEN = 4  # of the estimate: what counts is the ratio of documents to outputs
_PATIENCE = 600.0  # seconds: a node that Slurm has lost may be at work for a while


@dataclass(frozen=True)
class Shard:
    """Shard `index`, from 0, of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "1/4". Raises ValueError where it is not of that form, or there is no such shard."""
        form = re.fullmatch(r"(\d+)/(\d+)", text)
        if not form or int(form[1]) >= int(form[2]):
            raise ValueError(f"{text!r}: write INDEX/COUNT, from 0/4 to 3/4 say")
        return cls(int(form[1]), int(form[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def file(self, where: Path) -> Path:
        """Where its rows go, in a generation's folder."""
        return where / f"shard-{self.index:05d}-of-{self.count:05d}.jsonl"

    def of(
        self, sizes: NDArray[np.int64], documents: NDArray[np.uint64], output_tokens: int
    ) -> NDArray[np.int64]:
        """The numbers of its inputs, those of long documents first.

        `sizes` (N) are the documents' bytes, `documents` (N) hashes of them: inputs with the same
        one stay together.
        """
        _, first, group, count = np.unique(
            documents, return_index=True, return_inverse=True, return_counts=True
        )
        costs = sizes[first] + count * (_BYTES_PER_TOKEN * output_tokens)
        order = np.lexsort((first, -costs))  # of documents: the longest first
        homes = np.zeros(len(order), np.int32)
        if self.count > 1:
            homes[order] = self._dealt(costs[order])
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        mine = np.flatnonzero(homes[group] == self.index)
        return mine[np.argsort(rank[group[mine]], kind="stable")]

    def _dealt(self, costs: NDArray[np.int64]) -> NDArray[np.int32]:
        """The shard of each document: in turn the one that has the least to do so far."""
        loads = [(0, index) for index in range(self.count)]
        homes = np.empty(len(costs), np.int32)
        for number, cost in enumerate(costs):
            load, index = loads[0]
            heapq.heapreplace(loads, (load + int(cost), index))
            homes[number] = index
        return homes

    @contextmanager
    def held(self, where: Path) -> Iterator[None]:
        """Holds the shard for one process, and the generation for this number of shards.

        Raises RunError where another process is at the shard, or others in another number of them:
        a record would be generated twice.
        """
        where.mkdir(parents=True, exist_ok=True)
        lock = f".{self.file(where).stem}.lock"
        with (
            alone(where, f"sumzero generate, shard {self}", _PATIENCE, lock=lock),
            (where / ".count").open("a+") as file,
        ):
            if try_lock(file):  # nobody else is at work there
                file.truncate(0)
                file.write(str(self.count))
                file.flush()
            while not try_lock(file, fcntl.LOCK_SH):
                time.sleep(0.01)  # another has just found that nobody is
            file.seek(0)
            if (count := file.read()) != str(self.count):
                raise RunError(f"{where}: is being generated in {count} shards; wait for it")
            yield


@contextmanager
def appending(file: Path) -> Iterator[Callable[[Row], None]]:
    """A function that writes a row behind those that are there; what was torn before is cut off."""
    with file.open("a+b") as out:
        size, whole = out.seek(0, os.SEEK_END), whole_bytes(out)
        if whole < size:
            logger.warning("%s: cut off a torn last line of %d bytes", file, size - whole)
            out.truncate(whole)

        def write(row: Row) -> None:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            out.flush()

        yield write


def append(file: Path, rows: Iterable[Row]) -> None:
    """Writes each row as it comes; see `appending`."""
    with appending(file) as write:
        for row in rows:
            write(row)
