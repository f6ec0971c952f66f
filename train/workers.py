"""A source's rows -> its parts, tokenised by worker processes; parts that are there are kept.

Each worker is at the other end of a pipe and has one job at a time. A pipe that breaks tells each
side that the other was killed: nothing is waited for in vain, and no worker outlives its parent.
"""

import pickle
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeAlias

from sumzero.errors import RunError
from sumzero.formats import Block
from sumzero.log import progress
from sumzero.readers import blocks
from sumzero.train.parts import Tokeniser

Job: TypeAlias = tuple[list[Block], Path]
_BLOCKS = 4  # of a part


def tokenise(tokeniser: Tokeniser, work: Path, split: str, processes: int) -> list[Path]:
    """The files of a source's parts in the folder `work`, in order.

    What is in a part does not depend on the number of processes. Raises DataError as
    `readers.blocks` and Tokeniser do, RunError where a process was killed.
    """
    work.mkdir(parents=True, exist_ok=True)
    pieces = blocks(tokeniser.source)
    groups = iter(lambda: list(islice(pieces, _BLOCKS)), [])
    files = []
    with progress(iter(()), f"tokenising {split}", unit=" blocks") as bar:

        def missing() -> Iterator[Job]:
            for number, group in enumerate(groups):
                files.append(file := work / f"{number:07}.part")
                if file.is_file():
                    bar.update(len(group))
                else:
                    yield group, file

        jobs = missing()
        first = list(islice(jobs, processes))
        if len(first) > 1:
            _in_processes(tokeniser, chain(first, jobs), len(first), bar)
        else:  # not worth a process
            for group, file in chain(first, jobs):
                tokeniser(group, file)
                bar.update(len(group))
    return files


def _in_processes(tokeniser: Tokeniser, jobs: Iterator[Job], processes: int, bar: Any) -> None:
    """Does all jobs. Raises what a worker raised, and RunError where one was killed."""
    context = get_context("spawn")
    workers: list[tuple[SpawnProcess, Connection]] = []
    busy: dict[Connection, int] = {}  # number of blocks

    def finished() -> list[Connection]:
        """Waits for a worker to finish; those that have."""
        done: list[Connection] = [pipe for pipe in wait(list(busy)) if isinstance(pipe, Connection)]
        for pipe in done:
            with _not_killed():
                error: Exception | None = pipe.recv()
            if error is not None:
                raise error
            bar.update(busy.pop(pipe))
        return done

    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        idle = [pipe for _, pipe in workers]
        # Now that all of them are starting, and not as an argument, which would start one by one.
        shared = pickle.dumps(tokeniser)
        for pipe in idle:
            with _not_killed():
                pipe.send_bytes(shared)
        for group, file in jobs:
            idle = idle or finished()
            pipe = idle.pop()
            with _not_killed():
                pipe.send((group, file))
            busy[pipe] = len(group)
        while busy:
            finished()
    finally:
        for process, _ in workers:
            process.terminate()
        for process, pipe in workers:
            process.join()
            pipe.close()


def _work(pipe: Connection) -> None:
    """A worker's life: a tokeniser, then jobs until there are no more, or no parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    with suppress(EOFError, ConnectionError):
        tokeniser: Tokeniser = pipe.recv()
        while True:
            group, file = pipe.recv()
            pipe.send(_fault(tokeniser, group, file))


def _fault(tokeniser: Tokeniser, group: list[Block], file: Path) -> Exception | None:
    """Makes a part, and returns the exception that it ended in; a bug's tells where it was."""
    try:
        tokeniser(group, file)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error
    return None


@contextmanager
def _not_killed() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise RunError(
            "a process that tokenised was killed, perhaps for want of memory; run `sumzero "
            "prepare` again with fewer --processes: it goes on from what is done"
        ) from None
