"""Axes of plots: scales, round ticks and their labels, and text that fits a width.

Ticks are multiples of 1, 2 or 5 times a power of ten (P. Heckbert, "Nice Numbers for Graph Labels",
Graphics Gems, 1990). All lengths are in the units of an SVG's view box, which are about pixels.
"""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

_CHARACTER = 6.0  # width of one in plots, whose text is 11 px high; wide ones take two
_SLACK = 1e-9  # of a step, for rounding


@dataclass(frozen=True)
class Scale:
    """Maps values in [low, high] to [start, end]; `log` by their logarithm, for values above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies; those beyond the ends lie at them."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """At most about so many round values within the scale."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, most)


def extent(
    values: Iterable[float],
    *,
    padding: float = 0.0,
    floor: float = -math.inf,
    ceiling: float = math.inf,
) -> tuple[float, float]:
    """The least and the greatest finite value, moved apart by a share of their distance.

    The room that is added stays within [floor, ceiling]. Where all are equal, they move by a tenth
    of the value, or by one of 0; where there is none, it is (0, 1).
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        more = 0.1 * abs(low) or 1.0
    else:
        more = padding * (high - low)
    return max(low - more, min(floor, low)), min(high + more, max(ceiling, high))


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round values in [low, high], about `most`. Raises ValueError where low >= high."""
    if not low < high:
        raise ValueError(f"no ticks from {low} to {high}")
    step = nice_step((high - low) / most)
    first = math.ceil(low / step - _SLACK)
    last = math.floor(high / step + _SLACK)
    places = max(0, 1 - math.floor(math.log10(step)))
    return [round(number * step, places) + 0.0 for number in range(first, last + 1)]


def nice_step(least: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `least` (above 0)."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= least * (1 - _SLACK))


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; the powers alone where they suffice."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [k * 10.0**p for p in powers for k in (1, 2, 5) if low <= k * 10.0**p <= high]
    few = [value for value in found if round(math.log10(value), 9).is_integer()]
    return few if len(few) >= 4 else found


def label(value: float) -> str:
    """A tick's text: 12,000 is 12k, and no digit is there that says nothing."""
    size = abs(value)
    for unit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            by = 1e3 if sign == "k" else unit
            return f"{value / by:.6g}{sign}"
    if size and size < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.6g}" if size < 1000 else f"{value:,.0f}"


def fitted(text: str, width: float) -> str:
    """The text, or its beginning and end with an ellipsis where it would be wider than `width`."""
    room = int(width / _CHARACTER)
    if sum(map(_cells, text)) <= room:
        return text
    head = _filling(text, room // 2)
    tail = _filling(text[::-1], room - 1 - room // 2)
    return f"{head.rstrip()}…{tail[::-1].lstrip()}"


def _filling(text: str, room: int) -> str:
    used = 0
    for number, character in enumerate(text):
        used += _cells(character)
        if used > room:
            return text[:number]
    return text


def width_of(text: str) -> float:
    """About how wide a text is."""
    return _CHARACTER * sum(map(_cells, text))


def _cells(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
