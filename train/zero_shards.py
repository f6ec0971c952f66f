"""The trained weights in the files that DeepSpeed's ranks wrote, put together one at a time.

    mp_rank_00_model_states.pt                        stages 1 and 2: names and shapes, by rank 0
    zero_pp_rank_R_mp_rank_00_model_states.pt         stage 3: the same, by rank R
    [bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt  the optimizer's float32 copies, flat

Files are mapped into memory, and of a weight only its own pieces are read: what is held at a time
is one weight. Nothing that a file names is run: DeepSpeed's own classes are read as inert ones.

Stages 1 and 2 lay the parameters of a group side by side, cut by ranks where it falls. Stage 3 cuts
each parameter: rank R holds the R-th part of it, the last one padded, and lays its parts side by
side, in one flat tensor or several.
"""

import math
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sumzero.errors import RunError
from sumzero.train.supervised import PREFIX


class _Inert:
    """Stands for a class of DeepSpeed's whose values are of no use here."""

    def __init__(self, *arguments: Any) -> None:
        pass


_NOT_RUN: list[Any] = [
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Inert, "deepspeed.utils.tensor_fragment.fragment_address"),
    (int, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


@dataclass(frozen=True)
class _Place:
    """Where a weight's pieces are: elements begin to end of `parts` laid side by side, in turn."""

    shape: torch.Size
    parts: list[Sequence[Tensor]]
    begin: int
    end: int


class ZeroShards:
    """The weights of a checkpoint folder by their names in `SupervisedLM.lm`.

    `names` are those of trained parameters and stored buffers; a tied parameter is there once.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the files. Raises RunError where one is missing, damaged or of another layout."""
        self._folder = folder
        states = _load(_files(folder, "model_states")[0])
        shards = [_load(file) for file in _files(folder, "optim_states")]
        self._place: dict[str, _Place] = {}
        try:
            self._whole: dict[str, Tensor] = {
                _name(name): states["module"][name] for name in states["buffer_names"] or []
            }
            self._lay_out([shard["optimizer_state_dict"] for shard in shards], states)
        except (KeyError, TypeError, IndexError) as error:
            raise RunError(f"{folder}: no layout of ZeRO that is known: {error!r}") from None
        self.names = [*self._whole, *self._place]

    def shape(self, name: str) -> torch.Size:
        """Of a weight that `names` holds."""
        return self._place[name].shape if name in self._place else self._whole[name].shape

    def read(self, name: str) -> Tensor:
        """A whole weight: a new tensor in float32, or mapped memory of a buffer."""
        if name in self._whole:
            return self._whole[name]
        place = self._place[name]
        whole = torch.empty(place.shape.numel())
        filled = 0
        for parts in place.parts:
            filled = _copy(parts, place.begin, place.end, whole, filled)
        return whole.view(place.shape)

    def _lay_out(self, ranks: list[dict[str, Any]], states: dict[str, Any]) -> None:
        counts = ranks[0]["partition_count"]
        world = max(counts) if isinstance(counts, list) else counts
        if world != len(ranks):
            raise RunError(
                f"{self._folder}: there are {len(ranks)} shards of {world} ranks; export another "
                "checkpoint with --checkpoint"
            )
        shapes = [
            {_name(name): torch.Size(shape) for name, shape in group.items()}
            for group in states["param_shapes"]
        ]
        if ranks[0]["zero_stage"] == 3:
            self._lay_out_parts([rank["fp32_flat_groups"] for rank in ranks], shapes)
        else:
            paddings = ranks[0].get("param_alignment_paddings")
            for number, group in enumerate(shapes):
                flat = [rank["single_partition_of_fp32_groups"][number] for rank in ranks]
                self._lay_out_group(flat, group, paddings[number] if paddings else None)

    def _lay_out_parts(
        self, ranks: list[Sequence[Tensor]], shapes: list[dict[str, torch.Size]]
    ) -> None:
        """Stage 3: every rank has a part of each parameter, at the same place."""
        end = 0
        for name, shape in ((name, x) for group in shapes for name, x in group.items()):
            begin, end = end, end + math.ceil(shape.numel() / len(ranks))
            self._place[name] = _Place(shape, ranks, begin, end)
        for parts in ranks:
            self._check_size(sum(part.numel() for part in parts), end, 0)

    def _lay_out_group(
        self, flat: list[Tensor], group: dict[str, torch.Size], paddings: list[int] | None
    ) -> None:
        """Stages 1 and 2: the ranks' shares of a group, laid side by side, hold its parameters."""
        begin = 0
        for number, (name, shape) in enumerate(group.items()):
            self._place[name] = _Place(shape, [flat], begin, begin + shape.numel())
            begin += shape.numel() + (paddings[number] if paddings else 0)
        # The group is padded to twice the number of ranks; the padding may be stored or not.
        self._check_size(sum(part.numel() for part in flat), begin, 2 * len(flat))

    def _check_size(self, stored: int, needed: int, padding: int) -> None:
        if not needed <= stored <= needed + padding:
            raise RunError(
                f"{self._folder}: the shards hold {stored} values where the parameters need "
                f"{needed}; export another checkpoint with --checkpoint"
            )


def _copy(parts: Sequence[Tensor], begin: int, end: int, whole: Tensor, filled: int) -> int:
    """Copies elements begin to end of `parts` laid side by side; returns how much is filled."""
    first = 0
    for part in parts:
        piece = part.detach()[max(0, begin - first) : max(0, end - first)]
        piece = piece[: whole.numel() - filled]  # the last rank's part is padded
        whole[filled : filled + piece.numel()] = piece
        filled += piece.numel()
        first += part.numel()
    return filled


def _files(folder: Path, kind: str) -> list[Path]:
    """A kind of file, by rank."""
    found = sorted(folder.glob(f"*_{kind}.pt"), key=lambda file: _rank(file.name))
    if not found:
        raise RunError(f"{folder}: no *_{kind}.pt is there; export another with --checkpoint")
    return found


def _rank(name: str) -> int:
    rank = re.search(r"zero_pp_rank_(\d+)_", name)
    return int(rank[1]) if rank else 0


def _load(file: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_NOT_RUN):
            loaded: dict[str, Any] = torch.load(
                file, map_location="cpu", mmap=True, weights_only=True
            )
    except pickle.UnpicklingError as error:
        raise RunError(f"{file}: holds what is not read from a checkpoint: {error}") from None
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{file}: damaged: {reason}; export another checkpoint with --checkpoint"
        ) from None
    return loaded


def _name(stored: str) -> str:
    return stored.removeprefix(PREFIX)
