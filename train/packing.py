"""Lengths -> the plan: which sequences share a bin, which bins a step, which rank takes which.

Computed from lengths alone; no token is moved. Sequences go into bins of at most `limit` tokens by
best-fit decreasing, over the whole data at once (n log n: a sorted list of the room left). Bins are
shuffled per epoch and cut into steps of `bins_per_step`. A step is defined on the global batch: its
bins do not depend on the number of ranks. Within a step, bins of near-equal cost run side by side,
since ZeRO-3 makes ranks wait for each other at every micro-step.

The state of a run's data is its global step: step g lies in epoch g // steps_per_epoch.
"""

import hashlib
from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
EMPTY = -1  # the bin of a rank that has nothing to do in a micro-step


@dataclass(frozen=True)
class Plan:
    """Bins and their order.

    `lengths` and `supervised` (n) are tokens of each sequence; `order` (n) lists sequences bin by
    bin and `starts` (bins + 1) says where each bin begins in it.
    """

    lengths: IntArray
    supervised: IntArray
    order: IntArray
    starts: IntArray
    limit: int
    bins_per_step: int
    seed: int

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        return len(self.starts) - 1

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over all bins; the last may be short."""
        return -(-self.num_bins // self.bins_per_step)

    @property
    def efficiency(self) -> float:
        """Share of the bins' room that holds tokens."""
        return float(self.lengths.sum() / (self.num_bins * self.limit))

    @cached_property
    def cost(self) -> IntArray:
        """Attention cost of each bin: sum of squared lengths. (bins)"""
        return np.add.reduceat(self.lengths[self.order] ** 2, self.starts[:-1])

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides which sequence is learnt from when."""
        state = hashlib.sha256(f"{self.limit} {self.bins_per_step} {self.seed}".encode())
        for array in (self.lengths, self.supervised, self.order, self.starts):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()

    def members(self, bin_: int) -> IntArray:
        """The sequences of a bin; none for EMPTY."""
        if bin_ == EMPTY:
            return np.empty(0, dtype=np.int64)
        return self.order[self.starts[bin_] : self.starts[bin_ + 1]]

    def step(self, global_step: int) -> IntArray:
        """The bins of a step, over all ranks."""
        epoch, index = divmod(global_step, self.steps_per_epoch)
        shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.num_bins)
        return shuffled[index * self.bins_per_step : (index + 1) * self.bins_per_step]

    def num_micro_steps(self, world: int) -> int:
        """Micro-steps of every step for a number of ranks: the same for all steps and ranks."""
        return -(-self.bins_per_step // world)

    def assignment(self, global_step: int, world: int) -> IntArray:
        """Bins by (micro-step, rank), EMPTY where there is none; costs of a row are close."""
        bins = self.step(global_step)
        by_cost = bins[np.argsort(-self.cost[bins], kind="stable")]
        table = np.full(self.num_micro_steps(world) * world, EMPTY, dtype=np.int64)
        table[: len(by_cost)] = by_cost
        return table.reshape(-1, world)

    def step_supervised(self, global_step: int) -> int:
        """Supervised tokens of a step over all ranks: what its loss is divided by."""
        return self._of_step(self.supervised, global_step)

    def step_tokens(self, global_step: int) -> int:
        """Tokens fed in a step over all ranks."""
        return self._of_step(self.lengths, global_step)

    def _of_step(self, counts: IntArray, global_step: int) -> int:
        return int(sum(counts[self.members(bin_)].sum() for bin_ in self.step(global_step)))


def make_plan(
    lengths: IntArray, supervised: IntArray, *, limit: int, bins_per_step: int, seed: int
) -> Plan:
    """Packs sequences into bins. Raises ValueError where one is longer than `limit` or none is."""
    lengths, supervised = (np.asarray(x, dtype=np.int64) for x in (lengths, supervised))
    if len(lengths) == 0 or lengths.min() < 1 or lengths.max() > limit:
        raise ValueError(f"lengths must lie between 1 and {limit}, and there must be some")
    bins = _best_fit_decreasing(lengths, limit)
    sizes = np.fromiter(map(len, bins), dtype=np.int64, count=len(bins))
    return Plan(
        lengths=lengths,
        supervised=supervised,
        order=np.fromiter((i for members in bins for i in members), np.int64, len(lengths)),
        starts=np.concatenate([[0], np.cumsum(sizes)]),
        limit=limit,
        bins_per_step=bins_per_step,
        seed=seed,
    )


def _best_fit_decreasing(lengths: IntArray, limit: int) -> list[list[int]]:
    bins: list[list[int]] = []
    open_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the rooms that some bin has left, ascending
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            bin_, room = len(bins), limit
            bins.append([])
        else:
            room = rooms[at]
            bin_ = open_by_room[room].pop()
            if not open_by_room[room]:
                del open_by_room[room], rooms[at]
        bins[bin_].append(index)
        left = room - length
        if left:
            if left not in open_by_room:
                open_by_room[left] = []
                insort(rooms, left)
            open_by_room[left].append(bin_)
    return bins
