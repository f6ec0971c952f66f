"""Plan + token store -> packed batches: one bin is one row of tokens.

A document and the targets that share it are a family. It is laid out once: a prefix segment, and a
branch a target, whose positions continue from the prefix; of a lone target, prefix and branch are
one segment. Tokens of a branch are its prompt and its target without the last, which is predicted
only. The supervised positions are those whose next token belongs to a target. A batch's state is
its global step; nothing is skipped by re-reading.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sumzero.train.epoch import Epochs, Layout
from sumzero.train.flops import StepFlops
from sumzero.train.store import TokenStore

Ids: TypeAlias = NDArray[np.int32] | Sequence[int]
LossWeight: TypeAlias = Literal["token", "target"]
_AHEAD = 4  # steps that are built before they are asked for


@dataclass(frozen=True)
class Branch:
    """One target of a document.

    `prompt` is the instruction and the assistant's header, empty where the prefix already ends with
    them; `target` ends with the end of turn and is never empty.
    """

    prompt: Ids
    target: Ids


@dataclass(frozen=True)
class Family:
    """A document, the `prefix`, which is not empty, and the targets that share it."""

    prefix: Ids
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Batch:
    """One packed bin, or a rank's part of it (`sequence_parallel.part`).

    `input_ids` and `position_ids` are (1, T), int64; `lengths` (N) the tokens of each segment and
    `prefix_of` (N) the segment that each one continues, or -1. `positions` (S) are the supervised
    positions in the row, `labels` (S) what follows them, `weights` (S, float32) what each counts in
    the loss. The last token of a prefix occurs once for each branch whose target follows it. An
    empty bin has one token and S = 0, so that all ranks run the same collectives.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    prefix_of: tuple[int, ...]
    positions: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of a step of one rank, or of each of the ranks that share its bins.

    `bins` are the plan's numbers of the batches' bins, EMPTY for none: they tell dropout apart.
    `weight`, which the summed loss is divided by, the tokens and the model's `flops`, 0 where they
    are not counted, are of all ranks together.
    """

    batches: list[Batch]
    bins: list[int]
    weight: int
    tokens: int
    flops: int = 0


def make_batch(families: Sequence[Family], pad_id: int, loss_weight: LossWeight = "token") -> Batch:
    """Lays families side by side in one row; no family gives an empty bin of one `pad_id`.

    A supervised token weighs 1 by "token"; by "target", the tokens of a target weigh 1 together.
    """
    ids: list[Ids] = []
    starts: list[int] = []  # the position of each segment's first token
    lengths: list[int] = []
    prefix_of: list[int] = []
    supervised: list[NDArray[np.int64]] = []
    targets: list[Ids] = []
    end = 0  # of what is laid out so far
    for family in families:
        prefix = len(lengths)
        prefix_length = len(family.prefix)
        is_shared = sum(_num_fed(branch) > 0 for branch in family.branches) > 1
        ids.append(family.prefix)
        starts.append(0)
        lengths.append(prefix_length)
        prefix_of.append(-1)
        end = prefix_end = end + prefix_length
        for branch in family.branches:
            num_fed = _num_fed(branch)
            ids += [branch.prompt, branch.target[:-1]]
            positions = np.arange(end + len(branch.prompt) - 1, end + num_fed)
            if not len(branch.prompt):
                positions[0] = prefix_end - 1
            supervised.append(positions)
            targets.append(branch.target)
            end += num_fed
            if is_shared and num_fed:
                starts.append(prefix_length)
                lengths.append(num_fed)
                prefix_of.append(prefix)
            elif num_fed:
                lengths[prefix] += num_fed
    if not families:
        ids, starts, lengths, prefix_of = [[pad_id]], [0], [1], [-1]
    weights = [
        np.full(len(target), 1 / len(target) if loss_weight == "target" else 1, np.float32)
        for target in targets
    ]
    shift = np.array(starts) - np.cumsum([0, *lengths[:-1]])  # from the row to the segment
    row_T = _joined(ids)
    position_T = np.arange(len(row_T)) + np.repeat(shift, lengths)
    return Batch(
        torch.from_numpy(row_T)[None],
        torch.from_numpy(position_T)[None],
        tuple(lengths),
        tuple(prefix_of),
        torch.from_numpy(_joined(supervised)),
        torch.from_numpy(_joined(targets)),
        torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *weights])),
    )


def _num_fed(branch: Branch) -> int:
    return len(branch.prompt) + len(branch.target) - 1


def _joined(pieces: Sequence[Ids | NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(x, np.int64) for x in pieces)])


def family(store: TokenStore, layout: Layout, piece: int) -> Family:
    """The document and branches of a piece of the plan."""
    example, begin, end = (int(x[piece]) for x in (layout.example, layout.begin, layout.end))
    document, questions, targets = store.row(example)
    first = int(store.offsets[example])
    prompts = [
        store.template.asked(
            int(store.way[branch]), int(layout.paraphrase[branch]), questions[branch - first]
        )
        for branch in range(begin, end)
    ]
    prefix = [np.array(store.template.head, np.int32), document]
    if store.alike[example]:  # the whole prompt is shared
        prefix.append(prompts[0])
        prompts = [prompts[0][:0]] * len(prompts)
    branches = zip(prompts, targets[begin - first : end - first], strict=True)
    return Family(np.concatenate(prefix), tuple(Branch(*ids) for ids in branches))


def batches(
    epochs: Epochs,
    *,
    rank: int,
    world: int,
    start: int,
    stop: int,
    pad_id: int,
    loss_weight: LossWeight = "token",
    flops: StepFlops | None = None,
) -> Iterator[tuple[int, StepBatches]]:
    """Yields (global step, one rank's batches) for the steps from `start` up to `stop`.

    Where k ranks share each bin, `rank` and `world` count groups of k. A thread builds the batches
    a few steps ahead, and plans the next epoch in time.
    """

    def build(step: int) -> tuple[int, StepBatches]:
        epoch, index = epochs.locate(step)
        plan, layout = epoch.plan, epoch.layout
        bins = plan.assignment(index, world)[:, rank].tolist()
        members = [[family(epochs.store, layout, i) for i in plan.members(bin_)] for bin_ in bins]
        made = [make_batch(families, pad_id, loss_weight) for families in members]
        all_bins = plan.step(index)
        weight, tokens = (int(count[all_bins].sum()) for count in (plan.weight, plan.tokens))
        operations = flops.step(epoch, index)[0] if flops is not None else 0
        return step, StepBatches(made, bins, weight, tokens, operations)

    with ThreadPoolExecutor(1, "batches") as pool:
        steps = iter(range(start, stop))
        ahead = deque(pool.submit(build, step) for step in islice(steps, _AHEAD))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(pool.submit(build, step) for step in islice(steps, 1))
        finally:
            for waiting in ahead:
                waiting.cancel()
