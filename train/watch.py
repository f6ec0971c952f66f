"""Watches that steps are made, and names the rank and the step where they are not.

A rank that hangs or is dead makes all others wait in a collective, which can last for hours (open-
instruct found its GPUs held for a day). Here a thread of each rank tells a store that all ranks
share where its rank is, once a second. Where a rank has come no further for the time allowed, it
looks twice: ranks whose thread tells nothing new are stopped or dead; of the others, those that are
the farthest behind are what is waited for. What is slow by nature (a checkpoint's conversion, say)
may take ten times as long while all ranks are alive. Rank 0 keeps the store: where the store does
not answer, a second thread sees it.

A rank that meets a user's fault alone, a full disk for one, tells it here too, so that the others
end with the same code instead of taking it for dead.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from sumzero.errors import EXIT_FAULT, EXIT_RANK_LOST, RankLost, SumZeroError, machine_fault
from sumzero.ranks import Ranks, tell_exit

_TICK = 1.0  # seconds
_TICKS_TO_ANSWER = 4
_PATIENCE = 10  # times the limit for what is slow by nature
_STORE_ANSWERS = 10.0  # seconds
_VERDICT, _FAULT = "verdict", "fault"
_NO_STORE = "rank 0 does not answer: it is stopped or dead"


@dataclass(frozen=True)
class Place:
    """Where a rank is: how often its thread told so, how far it has come, and in words."""

    tick: int
    moves: int
    words: str


class StallWatch:
    """A context in which `at` must be called again and again, or the process ends.

    `report` is called with `message=` before. Raises nothing: the main thread cannot be reached in
    a collective, so the process ends with EXIT_RANK_LOST, after the stacks of its threads were
    printed.
    """

    def __init__(self, who: Ranks, seconds: float, report: Callable[..., None]) -> None:
        self._who, self._limit, self._report = who, seconds, report
        self._tick = 0  # of the thread
        self._moves, self._words, self._is_slow = 0, "starting", False  # of the main thread
        self._moved_at = time.monotonic()
        self._closed = threading.Event()
        self._told_at = time.monotonic()
        self._threads = [
            threading.Thread(target=target, name="watch", daemon=True)
            for target in (self._run, self._watch_store)
        ]
        self._store: Any = None

    def __enter__(self) -> "StallWatch":
        store: Any = dist.distributed_c10d._get_default_store()
        # A connection of its own: collectives may hold the other one.
        self._store = dist.PrefixStore("watch", store.clone())  # type: ignore[attr-defined]
        self._told_at = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._closed.set()
        if isinstance(error, SumZeroError):
            fault = None if isinstance(error, RankLost) else str(error)
        else:
            fault = machine_fault(error) if isinstance(error, Exception) else None
        if fault is not None:
            with suppress(RuntimeError):
                self._store.set(_FAULT, f"{self._who.rank}|{fault}")
            self._let_others_learn()

    def at(self, step: int, doing: str, *, slow: bool = False) -> None:
        """Tells where this rank is: the step it makes, and what it does for it.

        With `slow` it may take ten times as long, as long as all ranks are alive.
        """
        self._moves, self._words = self._moves + 1, f"step {step}, {doing}"
        self._is_slow = slow
        self._moved_at = time.monotonic()

    def lost_rank(self) -> str | None:
        """Looks for ranks that do not answer and says which, or None; takes some seconds."""
        try:
            silent, _ = self._look()
        except RuntimeError:
            return f"{_NO_STORE}; rank {self._who.rank} waits at {self._words}"
        return self._message(silent, {}) if silent else None

    def _run(self) -> None:
        with suppress(RuntimeError):  # the store is gone: that is seen by `_watch_store`
            while not self._closed.wait(_TICK):
                self._tell()
                if self._is_stalled():
                    silent, places = self._look()
                    limit = self._limit * (_PATIENCE if self._is_slow and not silent else 1)
                    if self._is_stalled(limit):  # it has not moved in the meantime
                        self._end(self._message(silent, places))

    def _watch_store(self) -> None:
        while not self._closed.wait(_TICK):
            if self._is_stalled() and time.monotonic() - self._told_at > _STORE_ANSWERS:
                self._end(_NO_STORE, has_store=False)

    def _is_stalled(self, limit: float | None = None) -> bool:
        late = time.monotonic() - self._moved_at > (limit or self._limit)
        return late and not self._closed.is_set()

    def _tell(self) -> None:
        self._tick += 1
        self._store.set(str(self._who.rank), f"{self._tick}|{self._moves}|{self._words}")
        if self._store.check([_VERDICT]):  # another rank has said what is wrong
            self._leave()
        if self._store.check([_FAULT]) and not self._closed.is_set():
            rank, told = self._store.get(_FAULT).decode().split("|", 1)
            if self._who.is_main:
                _say(f"rank {rank}: {told}")
            tell_exit(EXIT_FAULT)
            self._let_others_learn()
            os._exit(EXIT_FAULT)
        self._told_at = time.monotonic()

    def _look(self) -> tuple[list[int], dict[int, Place]]:
        """Ranks that do not answer, and where all are."""
        before = self._places()
        for _ in range(_TICKS_TO_ANSWER):
            self._closed.wait(_TICK)
            self._tell()
        now = self._places()
        silent = [
            rank
            for rank in range(self._who.world)
            if rank != self._who.rank
            and (rank not in now or (rank in before and now[rank].tick == before[rank].tick))
        ]
        return silent, now

    def _places(self) -> dict[int, Place]:
        places = {}
        for rank in range(self._who.world):
            if self._store.check([str(rank)]):
                tick, moves, words = self._store.get(str(rank)).decode().split("|", 2)
                places[rank] = Place(int(tick), int(moves), words)
        return places

    def _message(self, silent: list[int], places: dict[int, Place]) -> str:
        if silent:
            waits = f"rank {self._who.rank} waits at {self._words}"
            return f"{_ranks(silent)} not answer: stopped or dead; {waits}"
        fewest = min(place.moves for place in places.values())
        behind = [rank for rank, place in places.items() if place.moves == fewest]
        if len(behind) == self._who.world > 1:
            return f"all ranks wait at {places[0].words}"
        return f"{_ranks(behind)} not go on from {places[behind[0]].words}"

    def _end(self, message: str, *, has_store: bool = True) -> None:
        minutes = self._limit / 60
        said = f"{message}; no step was made for {minutes:g} minutes (train.stall_minutes)"
        told = f"{self._who.rank}|{said}"
        if not has_store or self._store.compare_set(_VERDICT, "", told).decode() == told:
            self._report(message=said)
            _say(said)
        self._leave()

    def _leave(self) -> None:
        tell_exit(EXIT_RANK_LOST)
        faulthandler.dump_traceback(2, all_threads=True)  # sys.stderr may be another now
        self._let_others_learn()
        os._exit(EXIT_RANK_LOST)

    def _let_others_learn(self) -> None:
        """Rank 0 has the store: it is the last to leave."""
        if self._who.is_main and self._who.world > 1:
            time.sleep(3 * _TICK)


def _say(line: str) -> None:
    print(f"sumzero: {line}", file=sys.__stderr__, flush=True)


def _ranks(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]} does"
    named = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return f"ranks {named} do"


def leave_timeouts() -> None:
    """Lets the collectives of all groups wait for a day: a StallWatch knows sooner what is late.

    NCCL's own limit is 10 minutes, for DeepSpeed's groups too, and it ends the process without a
    word on which rank it waited for.
    """
    for group in list(dist.distributed_c10d._world.pg_map):
        dist.distributed_c10d._set_pg_timeout(timedelta(days=1), group)
