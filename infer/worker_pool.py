"""A function over items in processes, results in the items' order; few items are held at once.

A process computes with one thread, ends with its parent, and takes no Ctrl-C: the parent ends it.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from sumzero.errors import RunError

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_AHEAD = 3  # items a process: one that is worked at, and others on their way


class WorkerPool:
    """Processes, or without any this one."""

    def __init__(self, executor: ProcessPoolExecutor | None, processes: int) -> None:
        self._executor = executor
        self._ahead = _AHEAD * processes

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
        """The results in order; items are taken as they are needed.

        Raises what the function raises, and RunError where a process was killed.
        """
        if self._executor is None:
            yield from map(function, items)
            return
        waiting: deque[Future[_Out]] = deque()
        try:
            for item in items:
                with _environment(dict.fromkeys(_THREADS, "1")):  # processes start here, as needed
                    waiting.append(self._executor.submit(function, item))
                if len(waiting) >= self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise RunError(
                "a process that scored was killed, perhaps for want of memory; run it again"
            ) from None


@contextmanager
def worker_pool(processes: int) -> Iterator[WorkerPool]:
    """A pool; with one process there is none beside this one."""
    if processes <= 1:
        yield WorkerPool(None, 1)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, context, _begin)
    try:
        yield WorkerPool(executor, processes)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cores() -> int:
    """How many processes can run side by side here."""
    return len(os.sched_getaffinity(0))


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
