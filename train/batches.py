"""Plan + token store -> packed batches: one bin is one row of tokens.

Tokens of a sequence are its prompt and target without the last, which is predicted only. The
supervised positions are those whose next token belongs to a target. A batch's state is its global
step; nothing is skipped by re-reading.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sumzero.train.examples import TokenStore
from sumzero.train.packing import EMPTY, Plan


@dataclass(frozen=True)
class Batch:
    """One packed bin.

    `input_ids` and `position_ids` are (1, T); `lengths` the tokens of each sequence; `positions`
    (S) the supervised positions in the row and `labels` (S) what follows them. An empty bin has one
    token and S = 0, so that all ranks run the same collectives.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    lengths: tuple[int, ...]
    positions: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class StepBatches:
    """One rank's micro-batches of a step. The counts are of all ranks together."""

    batches: list[Batch]
    supervised_tokens: int
    tokens: int


def make_batch(sequences: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Lays (prompt ids, target ids) sequences side by side in one row."""
    input_ids: list[int] = []
    position_ids: list[int] = []
    lengths: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for prompt, target in sequences:
        start, length = len(input_ids), len(prompt) + len(target) - 1
        input_ids += prompt + target[:-1]
        position_ids += range(length)
        lengths.append(length)
        positions += range(start + len(prompt) - 1, start + length)
        labels += target
    if not sequences:
        input_ids, position_ids, lengths = [pad_id], [0], [1]
    return Batch(
        torch.tensor([input_ids]),
        torch.tensor([position_ids]),
        tuple(lengths),
        torch.tensor(positions, dtype=torch.int64),
        torch.tensor(labels, dtype=torch.int64),
    )


def bin_batch(store: TokenStore, plan: Plan, bin_: int, pad_id: int) -> Batch:
    """The batch of one bin; EMPTY gives an empty one."""
    members = [] if bin_ == EMPTY else plan.members(bin_).tolist()
    return make_batch([store.sequence(index) for index in members], pad_id)


def batches(
    store: TokenStore, plan: Plan, *, rank: int, world: int, start: int, stop: int, pad_id: int
) -> Iterator[tuple[int, StepBatches]]:
    """Yields (global step, one rank's batches) for the steps from `start` up to `stop`."""
    for step in range(start, stop):
        bins = plan.assignment(step, world)[:, rank]
        yield (
            step,
            StepBatches(
                [bin_batch(store, plan, int(bin_), pad_id) for bin_ in bins],
                plan.step_supervised(step),
                plan.step_tokens(step),
            ),
        )
