"""A model's safetensors files, and which of their tensors make which of the model's."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from sumzero.errors import DataError


def weight_files(path: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a model folder or Hub name.

    Raises DataError where there is none, one that the index names is not there, or one is damaged.
    """
    single = _file(path, SAFE_WEIGHTS_NAME, revision)
    if single is not None:
        files = [single]
    else:
        index = _file(path, SAFE_WEIGHTS_INDEX_NAME, revision)
        if index is None:
            raise DataError(
                f"{path}: has neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}; weights "
                "are read from safetensors files only"
            )
        files = []
        for name in _names(index):
            file = _file(path, name, revision)
            if file is None:
                raise DataError(f"{path}: no {name}, which {SAFE_WEIGHTS_INDEX_NAME} names")
            files.append(file)
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file}: damaged, or no safetensors file: {error}") from None
    return files


@dataclass
class Source:
    """One tensor of a file, or several that transformers makes into one or more of the model's."""

    name: str  # the first of the model's tensors it becomes
    file: Path
    rule: WeightRenaming | WeightConverter
    size: int = 0  # elements

    def values(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The model's tensors in the file's dtype: of one that is only renamed, mapped memory.

        Can be called once.
        """
        made = self.rule.convert(self.name, model=model, config=model.config)
        return {
            name: values[0] if isinstance(values, list) else values for name, values in made.items()
        }


def sources(model: PreTrainedModel, held: dict[str, Tensor], files: list[Path]) -> Iterator[Source]:
    """What the files hold of a model's tensors `held`, by transformers' own rules of loading.

    Nothing is read before `Source.values`. Tensors that the model has no place for are left out.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix, found = model.base_model_prefix, dict[str, Source]()
    for key, (tensor, file) in _stored(files).items():
        name, pattern = rename_source_key(key, renamings, converters, prefix, held)
        if name not in held and key in held:
            name, pattern = rename_source_key(key, [], [], prefix, held)
        if name not in held:
            continue
        if name not in found:
            rule = WeightRenaming(key, name)
            if pattern is not None:
                rule = deepcopy(next(x for x in converters if pattern in x.source_patterns))
            found[name] = Source(name, file, rule)
        found[name].rule.add_tensor(name, key, pattern or key, tensor)
        found[name].size += tensor.numel()
    yield from found.values()


def _stored(files: list[Path]) -> dict[str, tuple[Tensor, Path]]:
    stored: dict[str, tuple[Tensor, Path]] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            stored |= {key: (opened.get_tensor(key), file) for key in opened.keys()}  # noqa: SIM118
    return dict(sorted(stored.items(), key=lambda item: dot_natural_key(item[0])))


def _file(path: str, name: str, revision: str | None) -> Path | None:
    try:
        found = cached_file(path, name, revision=revision)
    except OSError:
        return None
    return None if found is None else Path(found)


def _names(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index}: not an index of weight files: {error!r}") from None
