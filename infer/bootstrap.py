"""Percentile bootstrap of many metrics at once: rows drawn with replacement, by a seed.

A resample is how often each row was drawn. These counts are made once for all metrics and
multiplied with their values: R resamples of N rows and M columns cost N R draws and 2 N R M
operations of a matrix product, in blocks. A corpus metric is taken of a resample's summed counts.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sumzero.infer.bleu import corpus_score

FloatArray = NDArray[np.float64]
_BLOCK = 1 << 22  # counts held at once
_COUNTED = 1 << 16  # of them, counted at once: they stay in the cache
LEVEL = 0.95


class Interval(NamedTuple):
    """A score, and the bounds of its interval."""

    value: float
    low: float
    high: float


def resampled_sums(values: FloatArray, *, resamples: int, seed: int) -> FloatArray:
    """The sums (R, M) of values (N, M), over N rows drawn with replacement, R times.

    The same N, resamples and seed draw the same rows. Raises ValueError where N = 0.
    """
    num = len(values)
    if num == 0:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, values.shape[1]))
    step = max(1, _BLOCK // num)
    some = max(1, _COUNTED // num)
    counts = np.empty((min(step, resamples), num))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        for first in range(0, size, some):
            rows = min(some, size - first)
            drawn = rng.integers(num, size=(rows, num)) + num * np.arange(rows)[:, None]
            counted = np.bincount(drawn.ravel(), minlength=rows * num)
            counts[first : first + rows] = counted.reshape(rows, num)
        sums[start : start + size] = counts[:size] @ values
    return sums


def intervals(
    values: Mapping[str, FloatArray],
    counts: Mapping[str, FloatArray],
    *,
    resamples: int,
    seed: int,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Of each metric the mean of its values (N), or the corpus score of its counts (N, K).

    Rows that are NaN are left out, of that metric; a metric that has no other rows is left out.
    """
    columns = {name: column[:, None] for name, column in values.items()} | dict(counts)
    groups: dict[bytes, list[str]] = {}  # metrics of the same rows are resampled together
    for name, column in columns.items():
        groups.setdefault(np.isnan(column[:, 0]).tobytes(), []).append(name)
    found: dict[str, Interval] = {}
    for lacking, names in groups.items():
        rows = ~np.frombuffer(lacking, np.bool_)
        if not rows.any():
            continue
        of_rows = [columns[name][rows] for name in names]
        # Deviations from one of the values: a metric that is the same everywhere stays so exactly.
        bases = [
            np.zeros(1) if name in counts else x[0] for name, x in zip(names, of_rows, strict=True)
        ]
        joined = np.concatenate([x - base for x, base in zip(of_rows, bases, strict=True)], axis=1)
        sums = resampled_sums(joined, resamples=resamples, seed=seed)
        start = 0
        for name, x, base in zip(names, of_rows, bases, strict=True):
            part = sums[:, start : start + x.shape[1]]
            start += x.shape[1]
            if name in counts:
                value = corpus_score(name, x.sum(axis=0))
                scores = np.array([corpus_score(name, one) for one in part])
            else:
                value = float(x.mean())
                scores = part[:, 0] / len(x) + base[0]
            low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
            found[name] = Interval(value, float(low), float(high))
    return {name: found[name] for name in columns if name in found}
