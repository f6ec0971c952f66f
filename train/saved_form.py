"""A model's tensors as transformers' save_pretrained would write them, one after the other.

The names and shapes in a model differ from those in its files where transformers converts on
loading: it fuses the experts of a layer into one tensor, for example. `save_pretrained` reverses
that for a whole model in memory; here each tensor is turned back as soon as all are there that are
turned back together. The rules are transformers' own.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)


def saved_names(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's parameters and stored buffers that are saved: each of those tied together once.

    `model` may be on the meta device.
    """
    held = model.state_dict(keep_vars=True)
    for name in model._keys_to_ignore_on_save or ():
        held.pop(name, None)
    tied = model.all_tied_weights_keys
    kept: dict[int, str] = {}
    for name, tensor in held.items():
        if id(tensor) not in kept or kept[id(tensor)] in tied:
            kept[id(tensor)] = name
    return {name: held[name] for name in kept.values()}


@dataclass
class _Group:
    """What is turned back together: `missing` are the model's names that are yet to come."""

    name: str
    rule: WeightRenaming | WeightConverter
    missing: set[str] = field(default_factory=set)


class SavedForm:
    """Turns a model's tensors, by the names of `saved_names`, into those of its files."""

    def __init__(self, model: PreTrainedModel, names: Iterable[str]) -> None:
        self._model = model
        self._group: dict[str, tuple[_Group, str]] = {}
        # As in transformers' revert_weight_conversion of a model that was not loaded: neither
        # legacy names, nor prefixes that other files of such a model may have.
        rules: list[Any] = get_model_conversion_mapping(model, add_legacy=False)
        back = [x.reverse_transform() for x in rules[::-1] if not isinstance(x, PrefixChange)]
        renamings = [rule for rule in back if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in back if isinstance(rule, WeightConverter)]
        groups: dict[str, _Group] = {}
        for name in sorted(names, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, reverse=True)
            if target not in groups:
                rule = WeightRenaming(name, target)
                if pattern is not None:
                    rule = deepcopy(next(x for x in converters if pattern in x.source_patterns))
                groups[target] = _Group(target, rule)
            groups[target].missing.add(name)
            self._group[name] = groups[target], pattern or name

    def __call__(self, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yields (name in the files, tensor); every name is to be given once."""
        for name, tensor in tensors:
            group, pattern = self._group[name]
            group.rule.add_tensor(group.name, name, pattern, tensor)
            group.missing.remove(name)
            if group.missing:
                continue
            made = group.rule.convert(group.name, model=self._model, config=self._model.config)
            for stored, values in made.items():
                yield stored, values[0] if isinstance(values, list) else values
