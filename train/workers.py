"""A source's rows -> its parts, tokenised by worker processes; parts that are there are kept."""

import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from sumzero.errors import RunError
from sumzero.formats import Block
from sumzero.log import progress
from sumzero.readers import blocks
from sumzero.train.parts import Tokeniser

_BLOCKS = 4  # of a part
_tokeniser: Tokeniser  # of a worker process


def tokenise(tokeniser: Tokeniser, work: Path, split: str, processes: int) -> list[Path]:
    """The files of a source's parts in the folder `work`, in order.

    The blocks of a part do not depend on the number of processes. Raises DataError as
    `readers.blocks` and Tokeniser do, RunError where a process was killed.
    """
    work.mkdir(parents=True, exist_ok=True)
    pieces = blocks(tokeniser.source)
    groups = iter(lambda: list(islice(pieces, _BLOCKS)), [])
    jobs = ((group, work / f"{number:07}.part") for number, group in enumerate(groups))
    files = []
    with progress(iter(()), f"tokenising {split}", unit=" blocks") as bar:
        first = list(islice(jobs, 2))
        if len(first) < 2 or processes == 1:  # not worth a process
            for group, file in chain(first, jobs):
                if not file.is_file():
                    tokeniser(group, file)
                bar.update(len(group))
                files.append(file)
            return files
        try:
            for num_blocks, file in _in_processes(tokeniser, chain(first, jobs), processes):
                bar.update(num_blocks)
                files.append(file)
        except BrokenProcessPool:
            raise RunError(
                "a process that tokenised was killed, perhaps for want of memory; run `sumzero "
                "prepare` again with fewer --processes: it goes on from what is done"
            ) from None
    return files


def _in_processes(
    tokeniser: Tokeniser, jobs: Iterator[tuple[list[Block], Path]], processes: int
) -> Iterator[tuple[int, Path]]:
    """(number of blocks, file) of each part, in order, once it is made."""
    pending: deque[tuple[Future[None] | None, int, Path]] = deque()

    def done() -> tuple[int, Path]:
        made, num_blocks, file = pending.popleft()
        if made is not None:
            made.result()
        return num_blocks, file

    with ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (tokeniser,)) as pool:
        for group, file in jobs:
            made = None if file.is_file() else pool.submit(_tokenise, group, file)
            pending.append((made, len(group), file))
            while len(pending) > 2 * processes or (pending and pending[0][0] is None):
                yield done()
        while pending:
            yield done()


def _start_worker(tokeniser: Tokeniser) -> None:
    global _tokeniser
    _tokeniser = tokeniser
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent leaves workers behind, which would write into what the next run writes."""
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _tokenise(group: list[Block], file: Path) -> None:
    _tokeniser(group, file)
