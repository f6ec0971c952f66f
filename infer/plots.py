"""Plots as SVG: curves, dots with intervals, scatter with means, distributions.

An SVG here has no script, no style of its own and no colour: classes name what a mark is, and
report.css says how that looks, light and dark. Series are told apart by their marks' shapes too.
Values that are not finite are left out.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from sumzero.infer.axes import Scale, extent, fitted, label, width_of

_WIDTH = 400.0
_TOP, _BOTTOM, _RIGHT = 12.0, 38.0, 14.0
_LEGEND = 16.0  # height of the row of names on top
_ROW = 24.0  # height of a row of labelled marks
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",  # circle
    "M-3.6,-3.6h7.2v7.2h-7.2Z",  # square
    "M0,-4.8L4.6,3.6H-4.6Z",  # triangle
    "M0,-5L5,0L0,5L-5,0Z",  # diamond
    "M-4,-4L4,4M4,-4L-4,4",  # cross
    "M0,4.8L4.6,-3.6H-4.6Z",  # triangle, upside down
)
KINDS = len(_SHAPES)


@dataclass(frozen=True)
class Series:
    """Points of a curve, by rising x. `kind` picks its look; a faint one is background."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: int = 0
    faint: bool = False
    marked: bool = False


@dataclass(frozen=True)
class Interval:
    """A labelled value with its interval; `shown` is its text."""

    name: str
    value: float
    low: float
    high: float
    shown: str
    kind: int = 0


def shape(kind: int) -> Markup:
    """The mark of a series, around 0,0."""
    return Markup('<path class="mark k{}" d="{}"/>').format(kind % KINDS, _SHAPES[kind % KINDS])


def curves(
    series: Sequence[Series], *, x: str, y: str, title: str, from_zero: bool = False
) -> Markup | None:
    """Lines over a common x; None where no series has two finite points."""
    kept = [Series(s.name, _finite(s.points), s.kind, s.faint, s.marked) for s in series]
    if not any(len(one.points) > 1 for one in kept):
        return None
    height = 220.0
    ys = [b for one in kept for _, b in one.points] + ([0.0] if from_zero else [])
    low, high = extent(ys, padding=0.05, floor=0.0)
    left = _left(Scale(low, high, 0, 1))
    across = Scale(*extent(a for one in kept for a, _ in one.points), left, _WIDTH - _RIGHT)
    named = [one for one in kept if one.name]
    legend = _legend(named, left) if len(named) > 1 else []
    up = Scale(low, high, height - _BOTTOM, _TOP + _LEGEND * bool(legend))
    parts = [_axes(across, up, x, y)]
    for one in kept:
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in one.points)
        faint = " faint" if one.faint else ""
        parts.append(
            Markup('<polyline class="line k{}{}" points="{}"/>').format(one.kind, faint, path)
        )
        if one.marked:
            parts += [_mark(across(a), up(b), one.kind) for a, b in one.points]
    return _svg(parts + legend, height, title)


def intervals(
    rows: Sequence[Interval], *, title: str, zero: bool = False, share: bool = False
) -> Markup:
    """A dot with its interval for each row, its name on the left and its text on the right.

    `zero` draws a line at 0, for differences; `share` keeps the axis within 0 and 100.
    """
    names = min(130.0, 14 + max((width_of(row.name) for row in rows), default=0))
    texts = 10 + max((width_of(row.shown) for row in rows), default=0)
    height = _TOP + _ROW * len(rows) + 24
    ends = [end for row in rows for end in (row.low, row.value, row.high)] + [0.0] * zero
    bounds = (0.0, 100.0) if share else (-math.inf, math.inf)
    low, high = extent(ends, padding=0.06, floor=bounds[0], ceiling=bounds[1])
    across = Scale(low, high, names + 12, max(names + 80, _WIDTH - texts - 8))
    bottom = _TOP + _ROW * len(rows)
    parts = [_grid(across, _TOP - 4, bottom)]
    if zero:
        parts.append(_line("zero", across(0), _TOP - 6, across(0), bottom))
    for number, row in enumerate(rows):
        at = _TOP + _ROW * (number + 0.5)
        parts.append(_text(names, at + 4, fitted(row.name, names - 8), "name", row.name))
        if math.isfinite(row.low) and math.isfinite(row.high):
            parts.append(_line(f"bar k{row.kind}", across(row.low), at, across(row.high), at))
        if math.isfinite(row.value):
            parts.append(_mark(across(row.value), at, row.kind))
        parts.append(_text(across.end + 10, at + 4, row.shown, "value"))
    return _svg(parts, height, title)


def scatter(
    points: Sequence[tuple[float, float]],
    means: Sequence[tuple[str, int, Sequence[tuple[float, float, float, float]]]],
    *,
    x: str,
    y: str,
    title: str,
    share: bool = False,
) -> Markup | None:
    """Faint points, and of each series (name, kind) means (x, value, low, high) with intervals.

    None where there is nothing to show. x is drawn by its logarithm where it spans a tenfold.
    """
    points = _finite(points)
    every = [a for a, _ in points] + [a for _, _, some in means for a, *_ in some]
    ys = [b for _, b in points] + [v for _, _, some in means for _, *values in some for v in values]
    if not every or not any(map(math.isfinite, ys)):
        return None
    height = 260.0
    low, high = extent(ys, padding=0.04, floor=0.0, ceiling=100.0 if share else math.inf)
    left = _left(Scale(low, high, 0, 1))
    least, most = extent(every)
    log = least >= 1 and most / least > 10
    across = Scale(least, most, left + 6, _WIDTH - _RIGHT - 6, log)
    up = Scale(low, high, height - _BOTTOM, _TOP + _LEGEND)
    parts = [_axes(across, up, x, y)]
    parts += [
        Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="2"/>').format(across(a), up(b))
        for a, b in points
    ]
    named = []
    for number, (name, kind, some) in enumerate(means):
        aside = 3 * (number - (len(means) - 1) / 2)  # marks at one x stay apart
        line = [(a, value) for a, value, _, _ in some if math.isfinite(value)]
        path = " ".join(f"{across(a) + aside:.1f},{up(b):.1f}" for a, b in line)
        parts.append(Markup('<polyline class="line k{}" points="{}"/>').format(kind, path))
        for a, value, lower, upper in some:
            if math.isfinite(value):
                at = across(a) + aside
                parts.append(_line(f"bar k{kind}", at, up(lower), at, up(upper)))
                parts.append(_mark(at, up(value), kind))
        named.append(Series(name, (), kind))
    return _svg(parts + _legend(named, left), height, title)


def distributions(
    rows: Sequence[tuple[str, int, NDArray[np.float64]]], *, x: str, title: str, bins: int = 30
) -> Markup | None:
    """A histogram a row (name, kind, values) over one x, its median marked; None without values."""
    kept = [(name, kind, values[np.isfinite(values)]) for name, kind, values in rows]
    if not any(len(values) for _, _, values in kept):
        return None
    names = min(130.0, 14 + max(width_of(name) for name, _, _ in kept))
    tall = 44.0
    bottom = _TOP + tall * len(kept)
    low, high = extent(np.concatenate([values for _, _, values in kept]).tolist())
    across = Scale(low, high, names + 8, _WIDTH - 46)
    parts = [_grid(across, _TOP, bottom)]
    for number, (name, kind, values) in enumerate(kept):
        base = _TOP + tall * (number + 1)
        parts.append(_text(names, base - 6, fitted(name, names - 8), "name", name))
        parts.append(_line("axis", across.start, base, across.end, base))
        if not len(values):
            parts.append(_text(across.end + 6, base - 6, "none", "value"))
            continue
        counts, _ = np.histogram(values, bins, (low, high))
        wide = (across.end - across.start) / bins
        scale = (tall - 10) / counts.max()
        bars = "".join(
            f"M{across.start + index * wide:.1f},{base:.1f}v{-count * scale:.1f}"
            f"h{wide - 1:.1f}v{count * scale:.1f}"
            for index, count in enumerate(counts.tolist())
            if count
        )
        median = float(np.median(values))
        parts.append(Markup('<path class="area k{}" d="{}"/>').format(kind, bars))
        at = across(median)
        parts.append(_line("median", at, base - tall + 8, at, base))
        parts.append(_text(across.end + 6, base - 6, label(float(f"{median:.3g}")), "value"))
    return _svg([*parts, _text((across.start + across.end) / 2, bottom + 33, x, "title")],
                bottom + 38, title)  # fmt: skip


def _svg(parts: Iterable[Markup], height: float, title: str) -> Markup:
    start = Markup('<svg role="img" viewBox="0 0 {:.0f} {:.0f}" aria-label="{}">').format(
        _WIDTH, height, title
    )
    return start + Markup("").join(parts) + Markup("</svg>")


def _axes(across: Scale, up: Scale, x: str, y: str) -> Markup:
    """Grid, tick labels and titles of both axes; the title of y stands above it."""
    parts = []
    for tick in up.ticks():
        parts.append(_line("grid", across.start, up(tick), across.end, up(tick)))
        parts.append(_text(across.start - 6, up(tick) + 4, label(tick), "name"))
    parts.append(_line("axis", across.start, up.start, across.end, up.start))
    for tick in across.ticks():
        parts.append(_line("axis", across(tick), up.start, across(tick), up.start + 4))
        parts.append(_text(across(tick), up.start + 16, label(tick), "tick"))
    parts.append(_text((across.start + across.end) / 2, up.start + 33, x, "title"))
    turned = Markup('<text class="title" transform="translate(11 {:.1f}) rotate(-90)">{}</text>')
    parts.append(turned.format((up.start + up.end) / 2, y))
    return Markup("").join(parts)


def _grid(across: Scale, top: float, bottom: float) -> Markup:
    """Lines across from top to bottom, labelled below."""
    parts = []
    for tick in across.ticks(4):
        parts.append(_line("grid", across(tick), top, across(tick), bottom))
        parts.append(_text(across(tick), bottom + 16, label(tick), "tick"))
    return Markup("").join(parts)


def _legend(series: Sequence[Series], left: float) -> list[Markup]:
    """The marks and names of series, in a row on top."""
    parts, at = [], left + 10
    for one in series:
        name = fitted(one.name, 110)
        parts.append(_mark(at, _TOP - 4, one.kind))
        parts.append(_text(at + 9, _TOP, name, "value", one.name))
        at += width_of(name) + 28
    return parts


def _left(up: Scale) -> float:
    """Where the axis of x begins: right of the tick labels of y and of its title."""
    return 26 + max(width_of(label(tick)) for tick in up.ticks())


def _mark(x: float, y: float, kind: int) -> Markup:
    return Markup('<g transform="translate({:.1f} {:.1f})">{}</g>').format(x, y, shape(kind))


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path class="{}" d="M{:.1f},{:.1f}L{:.1f},{:.1f}"/>').format(
        kind, x1, y1, x2, y2
    )


def _text(x: float, y: float, text: str, kind: str, full: str | None = None) -> Markup:
    """`full` is told where the pointer rests, if the text is not all of it."""
    more = Markup("<title>{}</title>").format(full) if full and full != text else ""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}{}</text>').format(
        kind, x, y, escape(text), more
    )


def _finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b)]
