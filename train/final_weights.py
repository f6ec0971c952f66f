"""The weights that a run ends with, one at a time: as trained, or a base with adapters merged in.

What is held at a time is one weight in float32 and the same in the dtype asked for.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sumzero.config import Lora
from sumzero.errors import RunError
from sumzero.train.adapters import adapted, scale
from sumzero.train.saved_form import saved_names
from sumzero.train.weights import sources, weight_files
from sumzero.train.zero_shards import ZeroShards

_A, _B = "lora_A", "lora_B"


def trained(
    model: PreTrainedModel, shards: ZeroShards, where: Path
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model that was trained whole, in the dtypes of `model`'s (on meta).

    Raises RunError where the checkpoint is of another model.
    """
    held = model.state_dict(keep_vars=True)
    alias = {id(held[name]): name for name in shards.names if name in held}
    names = saved_names(model)
    missing = [name for name, tensor in names.items() if id(tensor) not in alias]
    unknown = [name for name in shards.names if name not in held]
    if missing or unknown:
        raise RunError(
            f"{where}: not a checkpoint of {type(model).__name__} as config.json has it: "
            f"{len(missing)} weights missing, {len(unknown)} unknown"
        )
    for name, tensor in names.items():
        stored = alias[id(tensor)]
        if shards.shape(stored) != tensor.shape:
            shapes = f"{list(shards.shape(stored))} instead of {list(tensor.shape)}"
            raise RunError(f"{where}: {name} has the shape {shapes}")
        yield name, _final(name, shards.read(stored), tensor)


def merged(
    model: PreTrainedModel,
    adapters: "Adapters",
    path: str,
    revision: str | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The base's weights, from the files of the folder or Hub name, with adapters added to them.

    The sum is made in float32 and rounded once. Raises RunError where the files lack a weight.
    """
    names = saved_names(model)
    left = set(names)
    for source in sources(model, model.state_dict(keep_vars=True), weight_files(path, revision)):
        for name, values in source.values(model).items():
            if name not in left:
                continue
            left.remove(name)
            yield name, _final(name, adapters.added_to(name, values), names[name])
    if left:
        raise RunError(f"{path}: {len(left)} weights are in no file, {min(left)} first")


class Adapters:
    """The adapters of a checkpoint, by the names of the modules that have them.

    Raises RunError where they are not those that the settings and the model call for: each of a
    module's two matrices with its whole shape, and nothing else.
    """

    def __init__(self, model: PreTrainedModel, lora: Lora, shards: ZeroShards, where: Path) -> None:
        self._shards, self._scale = shards, scale(lora)
        self.modules = adapted(model, lora)
        self.found = {name for name in shards.names if f".{_A}." in name or f".{_B}." in name}
        for module in self.modules:
            layer = model.get_submodule(module)
            rows, columns = int(layer.out_features), int(layer.in_features)
            for part, shape in ((_A, (lora.rank, columns)), (_B, (rows, lora.rank))):
                name = _stored(module, part)
                if name not in self.found:
                    raise RunError(f"{where}: no adapter of {module} is there")
                if shards.shape(name) != shape:
                    raise RunError(
                        f"{where}: {name} has the shape {list(shards.shape(name))} instead of "
                        f"{list(shape)}"
                    )
        wanted = {_stored(module, part) for module in self.modules for part in (_A, _B)}
        if self.found != wanted:
            raise RunError(
                f"{where}: has {len(self.found - wanted)} adapters that train.lora does not call "
                f"for, {min(self.found - wanted)} first"
            )

    def added_to(self, name: str, values: Tensor) -> Tensor:
        """A weight plus what its adapter adds, in float32; itself where it has none."""
        module = name.removesuffix(".weight")
        if name == module or _stored(module, _A) not in self.found:
            return values
        a_RI, b_OR = (self._shards.read(_stored(module, part)).float() for part in (_A, _B))
        whole_OI = values.to(torch.float32, copy=True)
        return whole_OI.addmm_(b_OR, a_RI, alpha=self._scale)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All of them, small as they are, by the names that peft saves."""
        made = {}
        for stored in (_stored(module, part) for module in self.modules for part in (_A, _B)):
            values = self._shards.read(stored)
            name = f"base_model.model.{stored.replace('.default.', '.')}"
            made[name] = _rounded(stored, values, dtype)
        return made


def _final(name: str, values: Tensor, held: Tensor) -> Tensor:
    """A parameter or stored buffer in the dtype of the model's own."""
    is_parameter = isinstance(held, nn.Parameter)  # buffers, of masks, may hold infinities
    return _rounded(name, values, held.dtype) if is_parameter else values.to(held.dtype)


def _rounded(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter in another dtype. Raises RunError where it is not finite, or not in that."""
    made = values.to(dtype)
    if _is_finite(made):
        return made
    if not _is_finite(values):
        raise RunError(
            f"{name} holds values that are not finite; export another checkpoint with --checkpoint"
        )
    wider = "bfloat16 or float32" if dtype == torch.float16 else "float32"
    short = str(dtype).removeprefix("torch.")
    raise RunError(f"{name} holds values that are too large for {short}: take --dtype {wider}")


def _is_finite(values: Tensor) -> bool:
    """Whether all are; a reduction, which needs no memory beside the weight."""
    return not values.numel() or all(bool(x.isfinite()) for x in values.aminmax())


def _stored(module: str, part: str) -> str:
    return f"{module}.{part}.default.weight"
