"""An epoch's data: which examples it sees, how each target is asked for, and the plan.

All of it follows from the store, the settings, the seed and the epoch's number. Paraphrases are
drawn by (seed, record id, epoch), so that their tokens, and with them the lengths that are packed,
differ between epochs and are the same again in a rerun.
"""

import hashlib
import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.train.packing import IntArray, Pieces, Plan, make_plan
from sumzero.train.paraphrases import sample
from sumzero.train.store import TokenStore

_LOTS = 1 << 32  # as many as `sample` can tell apart


@dataclass(frozen=True)
class Layout:
    """The pieces of an epoch: piece i has the branches `begin[i]` to `end[i]` of `example[i]`.

    Branches are numbered through the whole store. `paraphrase` (B) is the one drawn for each.
    """

    pieces: Pieces
    example: IntArray
    begin: IntArray
    end: IntArray
    paraphrase: NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """A pass over the data."""

    number: int
    layout: Layout
    plan: Plan


class Epochs:
    """All epochs of a run. A global step lies in one of them; epochs differ a little in length.

    Raises ConfigError, once an epoch is asked for, where weights leave nothing in it.
    """

    def __init__(self, store: TokenStore, config: RunConfig, hidden_size: int) -> None:
        self.store = store
        self.config = config
        self._hidden_size = hidden_size
        self._recent: OrderedDict[int, Epoch] = OrderedDict()
        # A thread plans ahead while the main one looks up a step's records.
        self._lock = Lock()

    @cached_property
    def _planned(self) -> tuple[list[int], str]:
        """The global step after each epoch, and a hash of all plans."""
        count = Fraction(str(self.config.train.epochs))  # 0.1 of 10 steps is one, not two
        most = self.config.train.max_steps or math.inf
        ends: list[int] = []
        digest = hashlib.sha256()
        for number in range(math.ceil(count)):
            epoch = self.epoch(number)
            digest.update(epoch.plan.digest.encode())
            for array in (epoch.layout.begin, epoch.layout.end, epoch.layout.paraphrase):
                digest.update(np.ascontiguousarray(array).data)
            share = min(Fraction(1), count - number)
            ends.append((ends[-1] if ends else 0) + math.ceil(share * epoch.plan.num_steps))
            if ends[-1] >= most:
                break
        return ends, digest.hexdigest()

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return min(self._planned[0][-1], self.config.train.max_steps or self._planned[0][-1])

    @property
    def digest(self) -> str:
        """A hash of all that decides what of the store is learnt when, and which words ask."""
        return self._planned[1]

    def num_micro_steps(self, world: int) -> int:
        """Micro-steps of every step for a number of ranks."""
        return -(-self.config.train.bins_per_step // world)

    def epoch(self, number: int) -> Epoch:
        """An epoch by its number; the last two asked for are kept."""
        with self._lock:
            if number not in self._recent:
                self._recent[number] = self._planned_epoch(number)
                if len(self._recent) > 2:
                    self._recent.popitem(last=False)
            self._recent.move_to_end(number)
            return self._recent[number]

    def _planned_epoch(self, number: int) -> Epoch:
        data, train = self.config.data, self.config.train
        layout = self._layout(number, share=data.share_documents)
        if not len(layout.pieces):
            raise ConfigError(
                f"data.train: epoch {number} has no example; give its sources more weight"
            )
        plan = make_plan(
            layout.pieces,
            limit=data.max_length,
            bins_per_step=train.bins_per_step,
            balance_width=train.balance_width,
            hidden_size=self._hidden_size,
            seed=self.config.seed,
            epoch=number,
        )
        return Epoch(number, layout, plan)

    def records(self, global_step: int) -> list[str]:
        """The ids of the records that a step learns from, bin by bin."""
        epoch, index = self.locate(global_step)
        plan, layout = epoch.plan, epoch.layout
        found: dict[str, None] = {}  # an ordered set: a record can have several targets
        for bin_ in plan.step(index).tolist():
            for piece in plan.members(bin_).tolist():
                example = int(layout.example[piece])
                first = int(self.store.offsets[example])
                begin, end = int(layout.begin[piece]) - first, int(layout.end[piece]) - first
                found.update(dict.fromkeys(self.store.identities(example)[begin:end]))
        return list(found)

    def tokens_without_sharing(self) -> int:
        """Tokens of the first epoch if each target had a copy of its document."""
        return int(self._layout(0, share=False).pieces.tokens.sum())

    def _layout(self, epoch: int, *, share: bool) -> Layout:
        return lay_out(
            self.store,
            weights=[source.weight for source in self.config.data.train],
            limit=self.config.data.max_length,
            share=share,
            by_target=self.config.train.loss_weight == "target",
            seed=self.config.seed,
            epoch=epoch,
        )

    def locate(self, global_step: int) -> tuple[Epoch, int]:
        """The epoch of a global step, and the step's index in it."""
        ends = self._planned[0]
        number = bisect_right(ends, global_step)
        return self.epoch(number), global_step - (ends[number - 1] if number else 0)


def lay_out(
    store: TokenStore,
    *,
    weights: Sequence[float],
    limit: int,
    share: bool,
    by_target: bool,
    seed: int,
    epoch: int,
) -> Layout:
    """The pieces of an epoch.

    An example is one piece with all its branches, or several that repeat the document where it is
    longer than `limit` tokens or nothing is to be shared. `weights` are of the sources; `by_target`
    says what the loss counts. A branch alone is a piece even where it is longer than `limit`.
    """
    template = store.template
    counts = np.array([len(ways) for ways in template.ways])
    paraphrase = sample(counts[store.way], seed, store.key, epoch)
    asked = np.zeros((len(counts), counts.max()), dtype=np.int64)
    for way, texts in enumerate(template.ways):
        asked[way, : len(texts)] = [len(before) + len(after) for before, after in texts]
    prompt = asked[store.way, paraphrase] + store.question_tokens + len(template.tail)
    prefix = len(template.head) + store.kept.astype(np.int64)
    # Where all targets are asked for alike, the whole prompt is shared.
    first = store.offsets[:-1]
    prefix[store.alike] += prompt[first[store.alike]]
    prompt[np.repeat(store.alike, np.diff(store.offsets))] = 0
    fed = prompt + store.target_tokens - 1
    example, begin, end = _split(store.offsets, prefix, fed, limit, share)
    chosen = _repeats(store, weights, seed, epoch)[example]
    example, begin, end = (np.repeat(x, chosen) for x in (example, begin, end))
    return Layout(
        _pieces(prefix[example], fed, store.target_tokens, begin, end, by_target),
        example,
        begin,
        end,
        paraphrase,
    )


def _pieces(
    prefix: IntArray,
    fed: IntArray,
    target: NDArray[np.int32],
    begin: IntArray,
    end: IntArray,
    by_target: bool,
) -> Pieces:
    """Sums over the branches of each piece: branch b has `fed[b]` tokens and attends to prefix."""

    def sums(values: NDArray[np.int64]) -> IntArray:
        total: IntArray = np.concatenate([[0], np.cumsum(values)])
        return np.subtract(total[end], total[begin])

    own = sums(fed)
    return Pieces(
        tokens=prefix + own,
        pairs=prefix * (prefix + 1) // 2 + prefix * own + sums(fed * (fed + 1) // 2),
        supervised=(supervised := sums(target.astype(np.int64))),
        weight=end - begin if by_target else supervised,
    )


def _split(
    offsets: IntArray, prefix: IntArray, fed: IntArray, limit: int, share: bool
) -> tuple[IntArray, IntArray, IntArray]:
    """(example, begin, end) of the pieces: runs of branches that fit with their prefix."""
    num_branches = np.diff(offsets)
    if not share:
        branches = np.arange(len(fed))
        return np.repeat(np.arange(len(prefix)), num_branches), branches, branches + 1
    total = np.concatenate([[0], np.cumsum(fed)])
    whole = prefix + total[offsets[1:]] - total[offsets[:-1]] <= limit
    pieces: list[tuple[int, int, int]] = []
    for example in np.flatnonzero(~whole).tolist():
        at, stop = int(offsets[example]), int(offsets[example + 1])
        while at < stop:
            room = total[at] + limit - prefix[example]
            reach = min(stop, int(np.searchsorted(total, room, side="right")) - 1)
            reach = max(reach, at + 1)  # too long a branch is told by the plan
            pieces.append((example, at, reach))
            at = reach
    split = np.array(pieces, dtype=np.int64).reshape(-1, 3)
    unsplit = np.stack([np.arange(len(prefix)), offsets[:-1], offsets[1:]], axis=1)[whole]
    example, begin, end = np.concatenate([unsplit, split]).T
    return example, begin, end


def _repeats(
    store: TokenStore, weights: Sequence[float], seed: int, epoch: int
) -> NDArray[np.int64]:
    """How often the epoch sees each example: the whole part of its source's weight, or one more.

    Of a source's examples as many are seen once more as the weight's fraction says: the next ones
    in an order by lot, which is drawn anew when not enough are left of it. So of weight 0.5 two
    epochs see all.
    """
    keys = store.key[store.offsets[:-1]]
    repeats = np.zeros(len(store), dtype=np.int64)
    for source, weight in enumerate(weights):
        members = np.flatnonzero(store.source == source)
        fraction, whole = math.modf(weight)
        repeats[members] = whole
        if number := round(fraction * len(members)):
            order, part = divmod(epoch, len(members) // number)
            # Another seed than that of the paraphrases: the two must not go together.
            lot = np.argsort(sample(_LOTS, seed + 1, keys[members], order), kind="stable")
            repeats[members[lot[part * number : (part + 1) * number]]] += 1
    return repeats
