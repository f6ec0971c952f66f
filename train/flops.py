"""Floating point operations of a training step, from the plan: for the model FLOP/s utilisation.

Two counts. `model` is what the step needs: a product of a matrix (n, m) with a token is 2 n m
operations, and as many again for the gradient of its input and of its weight, which a frozen
weight has none of; attention is 4 operations forward and 8 backward for each pair of tokens that
attend, times heads and their size; the LM head is of supervised positions, and of the last layer,
where it is trimmed, only keys and values are of all tokens. Recomputation is not counted, nor what
attention kernels compute again. `conventional` is the figure that others report (Chowdhery et al.
2022, arXiv 2204.02311, appendix B): 6 operations a token and parameter, embeddings apart, and 12
for each layer and squared length of a document, neither trimmed nor halved for causality. (A frozen
parameter counts 4.) It is the larger one, so an MFU of it must not be read as use of the device.

Tokens of MLPs, norms and rotations beyond matrix products are not counted by either.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.train.epoch import Epoch
from sumzero.train.packing import FloatArray
from sumzero.train.structure import Structure, Weight


@dataclass(frozen=True)
class Work:
    """What bins hold, an element a bin: `tokens`; `pairs` that attend; `supervised` positions.

    `last_pairs` are those whose query is supervised; the trimmed last layer has no others.
    """

    tokens: NDArray[Any]
    pairs: NDArray[Any]
    supervised: NDArray[Any]
    last_pairs: NDArray[Any]

    @classmethod
    def of(cls, epoch: Epoch) -> "Work":
        """Of an epoch's bins, by their numbers in its plan.

        `last_pairs` is exact where each document has one target; branches that share a document
        are taken to be of one length.
        """
        plan, layout = epoch.plan, epoch.layout
        pieces, branches = layout.pieces, layout.end - layout.begin
        last_pairs = supervised_pairs(pieces.tokens, pieces.pairs, pieces.supervised, branches)
        return cls(
            *(
                np.add.reduceat(values[plan.order], plan.starts[:-1])
                for values in (pieces.tokens, pieces.pairs, pieces.supervised, last_pairs)
            )
        )


def supervised_pairs(
    tokens: NDArray[Any], pairs: NDArray[Any], supervised: NDArray[Any], branches: NDArray[Any]
) -> FloatArray:
    """Pairs of tokens whose query is supervised, of pieces: the last tokens of each branch are.

    With k equal branches of f tokens behind a prefix, T tokens in all, the pairs are
    (T^2 - (kf)^2 + (kf)^2 / k + T) / 2, which gives kf.
    """
    k = np.maximum(branches, 1)
    squared = np.maximum(tokens * (tokens + 1.0) - 2.0 * pairs, 0.0) * k / np.maximum(k - 1, 1)
    own = np.where(k > 1, np.minimum(np.sqrt(squared), tokens), tokens)
    found: FloatArray = (
        supervised * (tokens - own + own / k) - supervised * (supervised / k - 1) / 2
    )
    return found


@dataclass(frozen=True)
class Rates:
    """Operations for each token, pair, supervised position and pair of the last layer."""

    token: float = 0.0
    pair: float = 0.0
    supervised: float = 0.0
    last_pair: float = 0.0

    def of(self, work: Work) -> FloatArray:
        """Operations of each bin."""
        total: FloatArray = (
            self.token * work.tokens
            + self.pair * work.pairs
            + self.supervised * work.supervised
            + self.last_pair * work.last_pairs
        )
        return total


class StepFlops:
    """Counts the operations of steps; see the module.

    `model`, `conventional` and `recomputed` (what gradient checkpointing adds) are rates.
    """

    def __init__(self, structure: Structure) -> None:
        self.model = _model(structure)
        self.recomputed = _recomputed(structure)
        self.conventional = _conventional(structure)
        self._recent: OrderedDict[int, tuple[FloatArray, FloatArray]] = OrderedDict()

    @classmethod
    def of(cls, config: RunConfig) -> "StepFlops":
        """Of a run's model. Raises DataError where there is no such model."""
        structure = Structure.of(config)
        if config.train.sequence_parallel > 1:  # the last layer is whole there
            structure = replace(structure, trims=False)
        return cls(structure)

    def step(self, epoch: Epoch, index: int) -> tuple[int, int]:
        """(model, conventional) operations of a step, forward and backward, over all ranks.

        Costs a pass over an epoch's pieces once, and a sum of the step's bins after that.
        """
        if epoch.number not in self._recent:
            work = Work.of(epoch)
            self._recent[epoch.number] = self.model.of(work), self.conventional.of(work)
            if len(self._recent) > 2:
                self._recent.popitem(last=False)
        bins = epoch.plan.step(index)
        model, conventional = (x[bins].sum() for x in self._recent[epoch.number])
        return round(model), round(conventional)


def _model(structure: Structure) -> Rates:
    token = supervised = 0.0
    for weight in structure.weights:
        if weight.use != "matrix" or weight.layer is None:
            continue
        cost = _passes(weight, structure) * 2.0 * weight.numel * weight.active
        if _runs_trimmed(weight, structure):
            supervised += cost
        else:
            token += cost
    # Gradients of the head's input are always needed, those of its weight where it is trained.
    supervised += (6.0 if structure.trained_head else 4.0) * structure.head_numel
    pair = 12.0 * structure.queries
    whole = structure.layers - structure.trims
    return Rates(token, whole * pair, supervised, structure.trims * pair)


def _recomputed(structure: Structure) -> Rates:
    """The forward pass of all layers."""
    token = supervised = 0.0
    for weight in structure.weights:
        if weight.use == "matrix" and weight.layer is not None:
            cost = 2.0 * weight.numel * weight.active
            if _runs_trimmed(weight, structure):
                supervised += cost
            else:
                token += cost
    whole = structure.layers - structure.trims
    pair = 4.0 * structure.queries
    return Rates(token, whole * pair, supervised, structure.trims * pair)


def _conventional(structure: Structure) -> Rates:
    head = (6.0 if structure.trained_head else 4.0) * structure.head_numel
    token = head + sum(
        (6.0 if weight.trained else 4.0) * weight.numel * weight.active
        for weight in structure.weights
        if weight.layer is not None and weight.use != "table"
    )
    # A document of l tokens has l (l + 1) / 2 pairs: its squared length is twice that.
    return Rates(token, 24.0 * structure.layers * structure.queries)


def _passes(weight: Weight, structure: Structure) -> int:
    """Products with a weight: forward, for its own gradient, and for that of its input.

    Where embeddings are frozen, what the first layer's attention is fed with needs no gradient.
    """
    frozen_below = not structure.trained_head and weight.layer == 0 and weight.is_asking
    return 1 + weight.trained + (not frozen_below)


def _runs_trimmed(weight: Weight, structure: Structure) -> bool:
    return structure.trims and weight.layer == structure.layers - 1 and not weight.makes_keys
