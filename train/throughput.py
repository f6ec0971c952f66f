"""Tokens per second, from the time steps really took."""

import time


class Throughput:
    """Counts tokens and time since it was made; `mark()` gives the rate since the last mark."""

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()
        self._tokens = self._tokens_at_last = 0

    def add(self, tokens: int) -> None:
        """Counts the tokens of a finished step, over all ranks."""
        self._tokens += tokens

    def mark(self) -> float:
        """Tokens per second since the last mark."""
        now = time.perf_counter()
        rate = (self._tokens - self._tokens_at_last) / max(now - self._last, 1e-9)
        self._last, self._tokens_at_last = now, self._tokens
        return rate

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._begin

    @property
    def overall(self) -> float:
        """Tokens per second since it was made."""
        return self._tokens / max(self.seconds, 1e-9)
