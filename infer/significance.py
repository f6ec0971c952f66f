"""How far a mean would move with other documents: seeded percentile bootstrap."""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22  # resampled values held at once


def bootstrap_interval(
    values: NDArray[np.float64], *, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of the mean of `values` (n), over documents drawn with replacement.

    The same values, resamples and seed give the same interval. Raises ValueError where n = 0.
    """
    num = len(values)
    if num == 0:
        raise ValueError("no values to resample")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _BLOCK // num)
    for start in range(0, resamples, step):
        drawn = rng.integers(num, size=(min(step, resamples - start), num))
        means[start : start + step] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
