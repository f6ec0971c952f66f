"""Tokens and FLOPs per second, from the time steps really took."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Since the last mark: tokens and model FLOPs per second over all ranks, seconds a step."""

    tokens: float
    flops: float
    seconds_per_step: float

    def mfu(self, peak_flops: float | None, world: int) -> float | None:
        """Model FLOP/s over the devices' peak (arXiv 2204.02311, appendix B); None: unknown."""
        return None if peak_flops is None else self.flops / (peak_flops * world)


class Throughput:
    """Counts steps since it was made. Time that is `paused`, for saving, counts for nothing."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds = 0.0  # of all steps that were marked
        self._tokens = self._tokens_at_last = 0
        self._flops = self._flops_at_last = 0.0
        self._steps = 0
        self._paused = 0.0

    def add(self, tokens: int, flops: float) -> None:
        """Counts a finished step, over all ranks."""
        self._tokens += tokens
        self._flops += flops
        self._steps += 1

    def pause(self, seconds: float) -> None:
        """Leaves out time since the last mark that was not spent on steps."""
        self._paused += seconds

    def mark(self) -> Rate:
        """The rate since the last mark."""
        now = time.perf_counter()
        seconds = max(now - self._last - self._paused, 1e-9)
        rate = Rate(
            (self._tokens - self._tokens_at_last) / seconds,
            (self._flops - self._flops_at_last) / seconds,
            seconds / max(1, self._steps),
        )
        self.seconds += seconds
        self._last, self._steps, self._paused = now, 0, 0.0
        self._tokens_at_last, self._flops_at_last = self._tokens, self._flops
        return rate

    @property
    def overall(self) -> float:
        """Tokens per second over all that was marked."""
        return self._tokens_at_last / max(self.seconds, 1e-9)
