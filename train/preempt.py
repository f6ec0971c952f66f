"""Ends a run in time: signals and the wall clock ask for it, and all ranks agree on the step.

SIGTERM and SIGUSR1 to any rank ask to save after the current step and to end with EXIT_PREEMPTED.
Rank 0's clock asks for the same before `train.max_minutes` are over, and for the checkpoints of
`train.save_minutes`. A vote after every step tells all ranks what any of them was asked for: one
small all-reduce between the hosts, which no device waits for.
"""

import signal
import time
from enum import IntEnum
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from sumzero.config import Train
from sumzero.log import logger
from sumzero.ranks import Ranks
from sumzero.signals import PREEMPTION


class Asked(IntEnum):
    """What is to be done after a step; where ranks are asked for several things, the last one."""

    NOTHING = 0
    SAVE = 1
    END_IN_TIME = 2
    END_BY_SIGNAL = 3

    @property
    def ends(self) -> bool:
        """Whether the run is to end."""
        return self >= Asked.END_IN_TIME


class Preemption:
    """A context that listens; `begun` is when the run began, by `time.monotonic()`."""

    def __init__(self, train: Train, who: Ranks, begun: float) -> None:
        self._who = who
        self._end = begun + 60 * train.max_minutes if train.max_minutes else None
        self._limit = 60 * (train.max_minutes or 0)
        self._save_seconds = 60 * train.save_minutes if train.save_minutes else None
        self._saved_at = begun
        self._stepped_at: float | None = None
        self._longest_step = 0.0
        self._longest_save: float | None = None  # until it was whole
        self._signalled = False
        self._group: dist.ProcessGroup | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Preemption":
        self._before = {number: signal.signal(number, self._on_signal) for number in PREEMPTION}
        return self

    def __exit__(self, *error: object) -> None:
        # From here on a signal ends the process as before: there is nothing left to save.
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        name = signal.Signals(number).name
        logger.warning("%s: the run is saved after this step, and ends", name)

    def connect(self) -> None:
        """Prepares the vote; all ranks together, once they have joined their process group."""
        if dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")

    def vote(self) -> Asked:
        """After a step, by all ranks: what any of them is asked for, the same on each."""
        now = time.monotonic()
        if self._stepped_at is not None:
            self._longest_step = max(self._longest_step, now - self._stepped_at)
        self._stepped_at = now
        return self.look()

    def look(self) -> Asked:
        """The same in the midst of something long, by all ranks."""
        ballot = torch.tensor(int(self._asked(time.monotonic())))
        dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._group)
        return Asked(int(ballot))

    def saved(self, longest: float | None) -> None:
        """Is told of every checkpoint; `longest` is what one took until it was whole, if known."""
        self._saved_at = self._stepped_at = time.monotonic()
        self._longest_save = longest

    def paused(self) -> None:
        """Is told after what is no step, an evaluation say."""
        self._stepped_at = time.monotonic()

    def _asked(self, now: float) -> Asked:
        if self._signalled:
            return Asked.END_BY_SIGNAL
        if self._who.is_main:  # ranks' clocks differ: one decides
            if self._end is not None and now + self._time_to_end() >= self._end:
                return Asked.END_IN_TIME
            if self._save_seconds is not None and now - self._saved_at >= self._save_seconds:
                return Asked.SAVE
        return Asked.NOTHING

    def _time_to_end(self) -> float:
        """What another step and a save may take; before the first save a tenth of all the time."""
        save = self._limit / 10 if self._longest_save is None else 2 * self._longest_save
        return 2 * self._longest_step + save
