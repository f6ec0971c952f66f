"""The losses of steps: kept on the device, read when they are logged, and looked at for spikes.

Each step's loss is one number, however steps are grouped into log lines and wherever a run was
stopped in between, so a resumed run logs what an uninterrupted one does, to the bit.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

_FEWEST = 16  # losses that a spike is measured by
_MOST = 64


@dataclass(frozen=True)
class StepLoss:
    """A step's summed loss and the weight it is divided by, over all ranks."""

    step: int
    total: float
    weight: int

    @property
    def mean(self) -> float:
        """The loss of the step."""
        return self.total / max(1, self.weight)


@dataclass(frozen=True)
class Spike:
    """A step whose loss stood out of the recent ones."""

    step: int
    loss: float
    mean: float
    deviation: float


@dataclass
class Losses:
    """Losses since the last log line. `gather` gives (ranks, n) of a tensor (n) of each rank.

    `spike` is how many standard deviations above the mean of the recent losses count as one.
    """

    gather: Callable[[torch.Tensor], torch.Tensor]
    spike: float
    read: list[StepLoss] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    _unread: list[tuple[int, int, torch.Tensor]] = field(default_factory=list)

    def add(self, step: int, weight: int, loss: torch.Tensor) -> None:
        """Keeps this rank's summed loss of a step, a scalar, unread."""
        self._unread.append((step, weight, loss))

    def fetch(self) -> list[Spike]:
        """Reads what is unread, by all ranks together; returns the spikes among it."""
        if not self._unread:
            return []
        steps, weights, losses = zip(*self._unread, strict=True)
        self._unread = []
        # Summed one by one and exactly: how many are read at once changes nothing.
        by_rank = self.gather(torch.stack(losses)).tolist()
        totals = [math.fsum(of_step) for of_step in zip(*by_rank, strict=True)]
        found = [StepLoss(*one) for one in zip(steps, totals, weights, strict=True)]
        self.read += found
        return [spike for one in found if (spike := self._look(one))]

    def take(self) -> float:
        """The mean loss of the steps that were read since it was last asked for.

        Those that are not finite, and so were skipped, are left out; NaN where no other is there.
        """
        counted = [x for x in self.read if math.isfinite(x.total)]
        self.read = []
        weight = sum(x.weight for x in counted)
        return math.fsum(x.total for x in counted) / max(1, weight) if counted else math.nan

    def state(self) -> dict[str, list[object]]:
        """What a checkpoint keeps; all is read."""
        assert not self._unread
        kept: list[object] = [[x.step, x.total, x.weight] for x in self.read]
        return {"unlogged": kept, "recent": list(self.recent)}

    def restore(self, state: dict[str, list[object]]) -> None:
        """Takes up what a checkpoint kept."""
        self.read = [StepLoss(*kept) for kept in state["unlogged"]]  # type: ignore[misc]
        self.recent = list(state["recent"])  # type: ignore[arg-type]

    def _look(self, one: StepLoss) -> Spike | None:
        loss, before = one.mean, self.recent
        if not math.isfinite(loss):  # it is skipped, which is told of by itself
            return None
        self.recent = [*before[1 - _MOST :], loss]
        if len(before) < _FEWEST:
            return None
        mean, deviation = statistics.fmean(before), statistics.pstdev(before)
        is_spike = loss > mean + self.spike * deviation
        return Spike(one.step, loss, mean, deviation) if is_spike else None
