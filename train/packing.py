"""Lengths -> the plan of an epoch: which pieces share a bin, which bins a step, which rank which.

Computed from lengths alone, over the whole data at once; no token is moved.

Bins: best-fit decreasing. Pieces of one length are placed together into bins that have the same
room left, so the work grows with the number of distinct lengths, not of pieces. Ties are broken at
random: every epoch has other neighbours.

Steps: bins are sorted by cost and cut into strata; a step takes one group of `balance_width`
bins from each stratum: neighbours, or any of the stratum where its bins all cost nearly the same.
So bins that run side by side cost nearly the same (ZeRO-3 makes ranks wait for each other at every
micro-step), while a step as a whole is of all kinds of documents. Groups are matched to steps so
that every step has about the same weight of supervised tokens. docs/data.md has the figures.

A step is defined on the global batch: its bins do not depend on the number of ranks.
"""

import hashlib
from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
EMPTY = -1  # the bin of a rank that has nothing to do in a micro-step
_ALIKE = 0.03  # costs of a stratum that differ by less are taken for equal


@dataclass(frozen=True)
class Pieces:
    """What is packed, an element a piece: a document with one or more of its targets.

    `tokens` that are fed; `pairs` of tokens that attend to each other; `supervised` tokens; and
    `weight`, what they count in the loss. All (n).
    """

    tokens: IntArray
    pairs: IntArray
    supervised: IntArray
    weight: IntArray

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.tokens)


@dataclass(frozen=True)
class Plan:
    """Bins and steps of one epoch.

    `order` (n) lists pieces bin by bin and `starts` (bins + 1) says where each bin begins in it;
    `steps` (steps, bins_per_step) are bins, EMPTY where the last step is short. `tokens`,
    `supervised`, `weight` and `cost` (bins) are sums over a bin's pieces; the cost is in tokens'
    worth of time.
    """

    order: IntArray
    starts: IntArray
    steps: IntArray
    tokens: IntArray
    supervised: IntArray
    weight: IntArray
    cost: FloatArray
    limit: int

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        return len(self.starts) - 1

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the epoch; the last may be short."""
        return len(self.steps)

    @property
    def efficiency(self) -> float:
        """Share of the bins' room that holds tokens."""
        return float(self.tokens.sum() / (self.num_bins * self.limit))

    @cached_property
    def digest(self) -> str:
        """A hash of all that decides which piece is learnt from when."""
        state = hashlib.sha256(str(self.limit).encode())
        for array in (self.order, self.starts, self.steps, self.weight):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def members(self, bin_: int) -> IntArray:
        """The pieces of a bin; none for EMPTY."""
        if bin_ == EMPTY:
            return np.empty(0, dtype=np.int64)
        members: IntArray = self.order[self.starts[bin_] : self.starts[bin_ + 1]]
        return members

    def step(self, index: int) -> IntArray:
        """The bins of a step, over all ranks."""
        bins: IntArray = self.steps[index]
        full: IntArray = bins[bins != EMPTY]
        return full

    def num_micro_steps(self, world: int) -> int:
        """Micro-steps of every step for a number of ranks: the same for all steps and ranks."""
        return -(-int(self.steps.shape[1]) // world)

    def assignment(self, index: int, world: int) -> IntArray:
        """Bins of a step by (micro-step, rank), EMPTY for none; costs of a row are close."""
        bins = self.step(index)
        by_cost = bins[np.argsort(-self.cost[bins], kind="stable")]
        table = np.full(self.num_micro_steps(world) * world, EMPTY, dtype=np.int64)
        table[: len(by_cost)] = by_cost
        return table.reshape(-1, world)

    def imbalance(self, world: int) -> float:
        """Modelled share of the ranks' time that is spent waiting, over all steps but a short one.

        Each micro-step lasts as long as its most costly bin.
        """
        tables = [self.assignment(i, world) for i in np.flatnonzero((self.steps != EMPTY).all(1))]
        if not tables:
            return 0.0
        cost = np.where((rows := np.concatenate(tables)) == EMPTY, 0.0, self.cost[rows])
        return float(1 - cost.sum() / (world * cost.max(axis=1).sum()))


def make_plan(
    pieces: Pieces,
    *,
    limit: int,
    bins_per_step: int,
    balance_width: int | None = None,
    hidden_size: int = 4096,
    seed: int = 0,
    epoch: int = 0,
) -> Plan:
    """Packs an epoch's pieces and orders its steps.

    `balance_width` is by default an eighth of `bins_per_step`, but no less than a node's 8 GPUs; 1
    sorts within each step only, `bins_per_step` makes steps of equal bins. `hidden_size` is the
    model's, for the cost of attention. Raises ValueError where a piece is longer than `limit` or
    there is none.
    """
    if len(pieces) == 0 or pieces.tokens.min() < 1 or pieces.tokens.max() > limit:
        raise ValueError(f"lengths must lie between 1 and {limit}, and there must be some")
    random = np.random.default_rng([seed, epoch])
    order, starts = pack(pieces.tokens, limit, random)
    tokens, pairs, supervised, weight = (
        np.add.reduceat(values[order], starts[:-1])
        for values in (pieces.tokens, pieces.pairs, pieces.supervised, pieces.weight)
    )
    cost = bin_cost(tokens, pairs, hidden_size)
    width = balance_width or max(8, -(-bins_per_step // 8))
    steps = draw_steps(cost, weight, bins_per_step, width, random)
    return Plan(order, starts, steps, tokens, supervised, weight, cost, limit)


def bin_cost(tokens: IntArray, pairs: IntArray, hidden_size: int) -> FloatArray:
    """Time of forward and backward in units of a token's matrix products, of each bin.

    Of N non-embedding parameters, L layers and width h, 6 N operations are done a token and 12 L h
    a pair of tokens that attend (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, times three for
    the backward pass); N is about 12 L h^2.
    """
    return tokens + pairs / (6.0 * hidden_size)


def pack(lengths: IntArray, limit: int, random: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Best-fit decreasing: (order, starts) of `Plan`; n + d log d for d distinct lengths."""
    small = np.uint16 if limit < 2**16 else np.int32  # NumPy sorts 16 bits in linear time
    shuffled = random.permutation(len(lengths))
    by_length = shuffled[np.argsort((limit - lengths[shuffled]).astype(small), kind="stable")]
    counts = np.bincount(lengths, minlength=limit + 1)
    bin_of = np.empty(len(lengths), dtype=np.int32)  # of by_length
    free: dict[int, list[IntArray]] = {}  # bins by the room they have left
    rooms: list[int] = []  # those of `free` that have bins, ascending
    num_bins = placed = 0

    def give_back(bins: IntArray, room: int) -> None:
        if room and len(bins):
            if room not in free:
                free[room] = []
                insort(rooms, room)
            free[room].append(bins)

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms[at]
                bins = free[room].pop()
                if not free[room]:
                    del free[room], rooms[at]
            else:
                room = limit
                bins = np.arange(num_bins, num_bins - (-left // (limit // length)))
                num_bins = int(bins[-1]) + 1
            each = room // length  # a bin keeps being the best fit until it is full
            whole = min(len(bins), left // each)
            some = left - whole * each if whole < len(bins) else 0  # for one more bin
            take = np.repeat(bins[:whole], each)
            bin_of[placed : placed + len(take)] = take
            placed += len(take)
            give_back(bins[:whole], room - each * length)
            if some:
                bin_of[placed : placed + some] = bins[whole]
                placed += some
                give_back(bins[whole : whole + 1], room - some * length)
                whole += 1
            give_back(bins[whole:], room)
            left -= len(take) + some
    order = by_length[np.argsort(bin_of, kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(bin_of, minlength=num_bins))])
    return order, starts


def draw_steps(
    cost: FloatArray,
    weight: IntArray,
    bins_per_step: int,
    balance_width: int,
    random: np.random.Generator,
) -> IntArray:
    """Deals bins to steps: `Plan.steps`. The bins of a short last step are drawn at random."""
    num_full, num_left = divmod(len(cost), bins_per_step)
    steps = np.full((num_full + (num_left > 0), bins_per_step), EMPTY, dtype=np.int64)
    shuffled = random.permutation(len(cost))
    steps[num_full:, :num_left] = shuffled[:num_left]
    by_cost = shuffled[num_left:][np.argsort(cost[shuffled[num_left:]], kind="stable")]
    total = np.zeros(num_full)  # weight that each step has so far
    begin = 0
    for columns in np.array_split(np.arange(bins_per_step), -(-bins_per_step // balance_width)):
        stratum = by_cost[begin : begin + num_full * len(columns)]
        begin += len(stratum)
        if len(stratum) and np.divide(*np.quantile(cost[stratum], [0.99, 0.01])) < 1 + _ALIKE:
            stratum = random.permutation(stratum)
        groups = stratum.reshape(num_full, len(columns))
        # The group with the most goes to the step with the least.
        of_group = weight[groups].sum(axis=1)
        lightest = np.argsort(total, kind="stable")
        steps[lightest[:, None], columns] = groups[np.argsort(-of_group, kind="stable")]
        total[lightest] += np.sort(of_group)[::-1]
    steps[:num_full] = steps[random.permutation(num_full)]
    return steps
