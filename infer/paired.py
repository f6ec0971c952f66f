"""Is one system better than another on the same rows, or is it chance? Two paired tests, seeded.

- Bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"): rows
  are drawn with replacement, both systems' together, and the difference is taken of each draw. Its
  quantiles are the interval. Its p-value is by the shift method (Riezler and Maxwell 2005, "On Some
  Pitfalls in Automatic Evaluation and Significance Testing for MT"): how often a draw's difference
  is as far from the one observed as that is from 0. They and sacreBLEU shift the differences'
  absolute values; here those with their signs are shifted, which is exact in the limit.
- Approximate randomisation (Noreen 1989; same paper): if the systems were alike, each row's two
  outputs could as well be exchanged. The p-value is how often a random exchange of rows gives a
  difference as large as the one observed. It is valid for any number of rows.

Both are two-sided, and count the observed data as one more draw, (c + 1) / (draws + 1), as
sacreBLEU does: p is never 0. Equal systems have p = 1, and so has a single row.

A metric is a sum over rows of what each row adds, and a function of the sum: so means, and BLEU and
chrF from their counts, are resampled alike, by products of a matrix of draws with one of rows. All
metrics share the draws. Cost: draws x rows x columns multiplications; some 100 MiB at once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Aggregate = Callable[[FloatArray], FloatArray]
"""From summed statistics (m, k) to scores (m)."""

_BLOCK = 1 << 22  # entries of the matrix of draws that are held at once
_TILE = 4096  # rows that are summed in float32
_TIE = 1e-5  # standard deviations: differences that are nearer are equal but for rounding


@dataclass(frozen=True)
class Pair:
    """A metric of two systems on the same n rows: what each row adds, (n, k), and what it makes.

    Rows where `counts` (n) is False add nothing, and are all 0.
    """

    a: FloatArray
    b: FloatArray
    aggregate: Aggregate
    counts: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        """How many rows count."""
        return int(self.counts.sum())

    def by_row(self) -> tuple[FloatArray, FloatArray]:
        """Both systems' scores of each row alone (n); NaN of rows that do not count."""
        found = np.full((2, len(self.counts)), np.nan)
        for scores, sums in zip(found, (self.a, self.b), strict=True):
            scores[self.counts] = self.aggregate(sums[self.counts])
        return found[0], found[1]

    def of(self, rows: NDArray[np.bool_]) -> "Pair":
        """The same of some rows."""
        return Pair(self.a[rows], self.b[rows], self.aggregate, self.counts[rows])


@dataclass(frozen=True)
class Difference:
    """Scores of two systems, `b` less `a` with its interval, and both tests' p-values."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_randomisation: float


def mean_pair(a: FloatArray, b: FloatArray) -> Pair:
    """A metric that is a mean over rows, from its values (n) of each system.

    Rows where either is NaN, since the metric says nothing of them, do not count.
    """
    counts: NDArray[np.bool_] = ~np.isnan(a + b)
    ours, theirs = (np.column_stack([np.where(counts, x, 0.0), counts]) for x in (a, b))
    return Pair(ours, theirs, _mean, counts)


def corpus_pair(a: FloatArray, b: FloatArray, aggregate: Aggregate) -> Pair:
    """A metric that is a function of what rows add up to, from what each adds: (n, k).

    Rows that hold a NaN do not count.
    """
    counts = np.asarray(~np.isnan(a + b).any(axis=1))
    ours, theirs = (np.where(counts[:, None], x, 0.0) for x in (a, b))
    return Pair(ours, theirs, aggregate, counts)


def differences(
    pairs: Mapping[str, Pair], *, resamples: int, shuffles: int, seed: int, level: float = 0.95
) -> dict[str, Difference]:
    """Both tests on every metric, all of the same n rows.

    The same pairs, numbers and seed give the same result.
    Raises ValueError where a metric has no row that counts, or the numbers of rows differ.
    """
    if len({len(x) for pair in pairs.values() for x in (pair.a, pair.b)}) > 1:
        raise ValueError("pairs must be of the same rows")
    if none := [name for name, pair in pairs.items() if not pair.rows]:
        raise ValueError(f"{none[0]}: no row counts")
    drawn = _drawn_differences(pairs, resamples, seed)
    swapped = _swapped_differences(pairs, shuffles, seed)
    found = {}
    for name, pair in pairs.items():
        a, b = (float(pair.aggregate(x.sum(axis=0, keepdims=True))[0]) for x in (pair.a, pair.b))
        drew = drawn[name][~np.isnan(drawn[name])]
        low, high = np.quantile(drew, [(1 - level) / 2, (1 + level) / 2])
        # A draw's spread is that of n - 1 rows, not n: without the factor small samples are alarmed
        # too often (n - 1 of n is what makes a variance unbiased).
        wide = np.sqrt(pair.rows / max(pair.rows - 1, 1))
        p_bootstrap = _p_value((drew - (b - a)) * wide, b - a) if pair.rows > 1 else 1.0
        p_randomisation = _p_value(swapped[name], b - a)
        found[name] = Difference(a, b, b - a, float(low), float(high), p_bootstrap, p_randomisation)
    return found


def _mean(sums: FloatArray) -> FloatArray:
    """Mean over the rows that count; NaN where a draw has none."""
    with np.errstate(invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def _p_value(drawn: FloatArray, observed: float) -> float:
    """How often chance is as far from 0 as what was observed, which counts as one draw.

    What is equal but for rounding is as far: with few rows that differ, many draws are.
    """
    rounding = _TIE * float(drawn.std())
    count = int((np.abs(drawn) >= abs(observed) - rounding).sum())
    return (count + 1) / (len(drawn) + 1)


def _drawn_differences(
    pairs: Mapping[str, Pair], resamples: int, seed: int
) -> dict[str, FloatArray]:
    """The differences b - a of draws with replacement, (resamples) a metric.

    NaN where no row of a draw counts.
    """
    # Not a and b: rounding of what both have in common would be left in their difference.
    columns = [x for pair in pairs.values() for x in (pair.a, pair.b - pair.a)]
    masks = {pair.counts.tobytes(): pair.counts[:, None] for pair in pairs.values()}
    columns += [mask.astype(np.float64) for mask in masks.values()]
    sums = _sums(_draws(len(columns[0]), resamples, seed), resamples, columns)
    rows = dict(zip(masks, sums[2 * len(pairs) :], strict=True))
    found = {}
    for index, (name, pair) in enumerate(pairs.items()):
        a, change = sums[2 * index : 2 * index + 2]
        some = rows[pair.counts.tobytes()][:, 0] > 0
        found[name] = np.where(some, pair.aggregate(a + change) - pair.aggregate(a), np.nan)
    return found


def _swapped_differences(
    pairs: Mapping[str, Pair], shuffles: int, seed: int
) -> dict[str, FloatArray]:
    """The differences b - a after random exchanges of rows, (shuffles) a metric."""
    columns = [pair.b - pair.a for pair in pairs.values()]
    moved = _sums(_exchanges(len(columns[0]), shuffles, seed), shuffles, columns)
    found = {}
    for (name, pair), change in zip(pairs.items(), moved, strict=True):
        a, b = (x.sum(axis=0, keepdims=True) for x in (pair.a, pair.b))
        found[name] = pair.aggregate(b - change) - pair.aggregate(a + change)
    return found


_Tile = tuple[int, int, NDArray[np.float32]]
"""Of the matrix of draws: first draw, first row, and how often each row is in each draw (m, t)."""


def _sums(tiles: Iterator[_Tile], num: int, columns: list[FloatArray]) -> list[FloatArray]:
    """What every draw sums of the columns, given together and taken apart again: (num, k) each.

    Products are in float32, several times as fast; sums of counts are exact in it as far as a tile
    goes, and all beyond a tile is in float64.
    """
    matrix = np.concatenate(columns, axis=1).astype(np.float32)
    sums = np.zeros((num, matrix.shape[1]))
    for draw, row, tile in tiles:
        sums[draw : draw + len(tile)] += tile @ matrix[row : row + tile.shape[1]]
    ends = np.cumsum([part.shape[1] for part in columns])
    return np.split(sums, ends[:-1], axis=1)


def _draws(num: int, resamples: int, seed: int) -> Iterator[_Tile]:
    """Draws of `num` rows of as many with replacement."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // num)
    for draw in range(0, resamples, step):
        size = min(step, resamples - draw)
        drawn = rng.integers(num, size=(size, num))
        drawn += num * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num).astype(np.float32)
        for row in range(0, num, _TILE):
            yield draw, row, counts.reshape(size, num)[:, row : row + _TILE]


def _exchanges(num: int, shuffles: int, seed: int) -> Iterator[_Tile]:
    """Which of `num` rows are exchanged, each with probability 1/2: 1, else 0."""
    rng = np.random.default_rng((seed, 1))  # not the numbers that the bootstrap has
    step = _BLOCK // _TILE
    for row in range(0, num, _TILE):
        wide = min(_TILE, num - row)
        for draw in range(0, shuffles, step):
            size = min(step, shuffles - draw)
            bits = np.frombuffer(rng.bytes(-(-size * wide // 8)), dtype=np.uint8)
            tile = np.unpackbits(bits, count=size * wide).reshape(size, wide)
            yield draw, row, tile.astype(np.float32)
