"""Ranks that share a packed bin, each with a part of its tokens, for bins too long for one device.

The k consecutive ranks of a group build the same bin, and each keeps a k-th of its row. Labels were
laid out after the shift, so a rank takes the supervised positions that lie in its part, wherever
what follows them is. Attention trades tokens for heads (`kernels.ulysses`); nothing else in a model
looks from one token to another. All ranks stay one data-parallel group of ZeRO: each adds the
gradient of its own positions' loss.

Shape legend: T tokens of the row, P of a part, S supervised positions.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.ranks import Ranks
from sumzero.train.batches import Batch
from sumzero.train.model import other_layers, text_config


@dataclass(frozen=True)
class SequenceGroup:
    """The `size` ranks that share a bin; this one is its `rank`-th, from 0."""

    rank: int
    size: int
    ranks: dist.ProcessGroup

    @classmethod
    def join(cls, size: int) -> "SequenceGroup | None":
        """This rank's group of `size` consecutive ranks; None where a rank has its bins alone.

        All ranks call it together, after they joined the launch's process group.
        """
        if size == 1:
            return None
        ranks, _ = dist.new_subgroups(size)  # type: ignore[no-untyped-call]  # torch has no types
        return cls(dist.get_rank(ranks), size, ranks)

    def part(self, batch: Batch) -> Batch:
        """What this rank holds of a bin."""
        return part(batch, self.rank, self.size)

    def whole(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Of a bin, rows for all supervised positions, from those of each rank's part: (S, ...)."""
        whole = rows.new_zeros(len(batch.positions), *rows.shape[1:])
        whole[_lie_in(batch, self.rank, self.size).to(rows.device)] = rows
        return self.total(whole)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the group, in place."""
        dist.all_reduce(value, group=self.ranks)
        return value


def columns(config: RunConfig, who: Ranks) -> Ranks:
    """Which of how many columns of the plan a rank works on: those of a group work on the same."""
    size = config.train.sequence_parallel
    return Ranks(who.rank // size, who.world // size)


def part(batch: Batch, rank: int, size: int) -> Batch:
    """The `rank`-th of `size` parts of a bin, which have the same number of tokens P each.

    Its `input_ids` and `position_ids` are (1, P), its `positions` count from the part's first
    token; `lengths` and `prefix_of` stay those of the whole row, which attention sees. A row that
    cannot be divided gets a last segment, of token 0, that no other sees and nothing supervises.
    """
    missing = -batch.input_ids.shape[1] % size
    row_1T = F.pad(batch.input_ids, (0, missing))
    position_1T = torch.cat([batch.position_ids, torch.arange(missing)[None]], dim=1)
    length = row_1T.shape[1] // size
    own = slice(rank * length, (rank + 1) * length)
    held_S = _lie_in(batch, rank, size)
    return replace(
        batch,
        input_ids=row_1T[:, own],
        position_ids=position_1T[:, own],
        lengths=(*batch.lengths, missing) if missing else batch.lengths,
        prefix_of=(*batch.prefix_of, -1) if missing else batch.prefix_of,
        positions=batch.positions[held_S] - own.start,
        labels=batch.labels[held_S],
        weights=batch.weights[held_S],
    )


def _lie_in(batch: Batch, rank: int, size: int) -> torch.Tensor:
    """Which supervised positions lie in a part: (S), boolean."""
    length = -(-batch.input_ids.shape[1] // size)
    return batch.positions // length == rank


def check_sequence_parallel(config: RunConfig, path: str, world: int) -> None:
    """Raises ConfigError where `world` ranks cannot share bins of this model as the recipe says.

    `path` is the model's. Raises DataError where there is no such model.
    """
    if config.train.sequence_parallel > 1:
        check_model_shares(config, text_config(path, config.model.revision), path, world)


def check_model_shares(config: RunConfig, model: Any, path: str, world: int) -> None:
    """The same for the configuration of a text model at hand; `path` names it."""
    size = config.train.sequence_parallel
    if size == 1:
        return
    setting = f"train.sequence_parallel = {size}"
    heads = int(getattr(model, "num_attention_heads", None) or 0)
    others = other_layers(model) if heads else [model.model_type]
    if others:
        raise ConfigError(
            f"{setting}: {path} has layers of {', '.join(others)}, whose state runs through the "
            "whole row; only attention can be divided over ranks, set it to 1"
        )
    if world % size or heads % size:
        possible = [str(k) for k in range(1, heads + 1) if heads % k == 0 and world % k == 0]
        raise ConfigError(
            f"{setting} must divide the {world} ranks and the {heads} attention heads of {path}; "
            f"possible here: {', '.join(possible)}"
        )
    if config.train.lora is not None and config.train.lora.dropout:
        raise ConfigError(
            f"train.lora.dropout = {config.train.lora.dropout} with {setting}: the masks of a "
            "bin's parts would not be those of the whole bin; set the dropout to 0"
        )
    limit = _limit_of_angles(model)
    if config.data.max_length > limit:
        raise ConfigError(
            f"{setting}: rotary angles of {path} (longrope) change for rows with positions beyond "
            f"{limit}, and a part does not know its row's; set data.max_length to at most {limit}"
        )


def _limit_of_angles(model: Any) -> float:
    """From how many positions on a model's rotary angles depend on the longest one; or infinity."""
    rope = getattr(model, "rope_parameters", None) or {}
    kinds = [rope, *(x for x in rope.values() if isinstance(x, dict))]  # may differ by layer type
    limits = [
        x["original_max_position_embeddings"] for x in kinds if x.get("rope_type") == "longrope"
    ]
    return min(limits, default=float("inf"))
