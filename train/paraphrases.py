"""Which paraphrase a target is asked with in an epoch.

It is a hash of (seed, record id, epoch), so a rerun asks the same, on any number of ranks.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def key_of(id_: str) -> int:
    """The 64-bit key that a record's id is sampled by."""
    return int.from_bytes(blake2b(id_.encode(), digest_size=8).digest(), "little")


def sample(
    num_ways: NDArray[np.int64] | int, seed: int, keys_N: NDArray[np.uint64], epoch: int
) -> NDArray[np.int64]:
    """An index below `num_ways` for each key: the same for the same (seed, key, epoch).

    The mixing is splitmix64's finalizer (Steele, Lea and Flood 2014).
    """
    start = key_of(f"{seed} {epoch}")
    mixed_N = np.asarray(keys_N, np.uint64) ^ np.uint64(start)
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed_N = (mixed_N ^ (mixed_N >> np.uint64(shift))) * np.uint64(factor)
        mixed_N ^= mixed_N >> np.uint64(31)
        # The upper half times n, over 2^32: uniform without a division.
        found_N = (mixed_N >> np.uint64(32)) * np.asarray(num_ways).astype(np.uint64)
    return (found_N >> np.uint64(32)).astype(np.int64)
