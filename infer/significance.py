"""How far a mean would move with other documents: seeded percentile bootstrap."""

import numpy as np
from numpy.typing import NDArray

from sumzero.infer.bootstrap import intervals


def bootstrap_interval(
    values: NDArray[np.float64], *, resamples: int, seed: int, level: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of the mean of `values` (n), over documents drawn with replacement.

    The same values, resamples and seed give the same interval. Raises ValueError where n = 0.
    """
    if len(values) == 0:
        raise ValueError("no values to resample")
    found = intervals({"mean": values}, {}, resamples=resamples, seed=seed, level=level)["mean"]
    return found.low, found.high
