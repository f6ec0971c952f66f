"""What a model is made of: its weights and which tokens use them, from its configuration alone.

The model is built on the meta device, so this needs neither weights nor memory. Adapters are
counted as LoRA places them (Hu et al. 2021, arXiv 2106.09685): A (rank, in) and B (out, rank)
beside a linear layer.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from sumzero.config import Lora, RunConfig
from sumzero.kernels.patch import patch
from sumzero.runfolder import RunFolder
from sumzero.train.adapters import adapted
from sumzero.train.model import skeleton

_ASKS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")  # of the input
_KEYS_AND_VALUES = ("k_proj", "v_proj")
Use = Literal["matrix", "table", "other"]


@dataclass(frozen=True)
class Weight:
    """A parameter. `use`: a factor of a matrix product, a table of embeddings, or other.

    `layer` is None outside the decoder's layers; `active` is the share of it that a token uses,
    below 1 in experts; `name` is its module's, with `.lora_A` or `.lora_B` of an adapter.
    """

    name: str
    shape: tuple[int, ...]
    use: Use
    trained: bool
    layer: int | None = None
    active: float = 1.0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def is_asking(self) -> bool:
        """Whether it is applied to what the layer's attention is fed with."""
        return self.name.removesuffix(".lora_A").rsplit(".", 1)[-1] in _ASKS

    @cached_property
    def makes_keys(self) -> bool:
        """Whether it makes keys or values, of which attention needs every token's."""
        name = re.sub(r"\.lora_[AB]$", "", self.name)
        return name.rsplit(".", 1)[-1] in _KEYS_AND_VALUES


@dataclass(frozen=True)
class Structure:
    """A model's weights, each once, in its own order, and the sizes that activations depend on.

    `queries` and `keys` are heads times their size; `intermediate` what a token uses of it.
    `norms_heads` where queries and keys are normalised; `fused` where layers are SumZero's; `trims`
    where the last one runs on supervised positions only; `base` says how frozen weights are held;
    `text` is the configuration of the text model.
    """

    weights: tuple[Weight, ...]
    hidden: int
    layers: int
    heads: int
    queries: int
    keys: int
    intermediate: int
    vocab: int
    norms_heads: bool
    fused: bool
    trims: bool
    trained_head: bool
    positions: int | None = None
    base: Literal["whole", "4bit"] = "whole"
    text: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, config: RunConfig) -> "Structure":
        """Of a run's model, which is looked for where training looks.

        Raises DataError where there is no such model, ConfigError where LoRA's targets are
        not all layers that it can adapt.
        """
        path = RunFolder.of(config).model_path(config)
        lora = config.train.lora
        return cls.of_model(
            skeleton(path, config.model.revision), lora, fused=config.model.fused_layers
        )

    @classmethod
    def of_model(
        cls, model: PreTrainedModel, lora: Lora | None = None, *, fused: bool = True
    ) -> "Structure":
        """The same of a model at hand, which is not changed. Its parameters must be whole."""
        config = model.config.get_text_config()
        weights = tuple(_weights(model, lora))
        trims = False
        if fused:
            patched = patch(model)
            trims = patched.trims  # of the models whose layers are known
            patched.undo()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        names = {weight.name.rsplit(".", 1)[-1] for weight in weights}
        return cls(
            weights=weights,
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=heads,
            queries=heads * size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
            intermediate=_intermediate(config),
            vocab=config.vocab_size,
            norms_heads="q_norm" in names,
            fused=trims,
            trims=trims,
            trained_head=lora is None,
            positions=getattr(config, "max_position_embeddings", None),
            base="whole" if lora is None else lora.base,
            text=config,
        )

    @cached_property
    def numel(self) -> int:
        """Parameters in all, adapters included."""
        return sum(weight.numel for weight in self.weights)

    @cached_property
    def trained_numel(self) -> int:
        """Parameters that are trained."""
        return sum(weight.numel for weight in self.weights if weight.trained)

    def exchanged_keys(self, sharing: int) -> int:
        """`keys` where so many ranks share a bin: heads are repeated until ranks divide them."""
        heads = self.keys * self.heads // self.queries
        return self.keys * math.lcm(heads, sharing) // heads

    @cached_property
    def head_numel(self) -> int:
        """Elements of the LM head, whose weight may be the embedding's."""
        return self.vocab * self.hidden


def _weights(model: PreTrainedModel, lora: Lora | None) -> Iterator[Weight]:
    """Every parameter once, with the adapters of its module behind it."""
    config = model.config.get_text_config()
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    targets = set() if lora is None else set(adapted(model, lora))
    for name, parameter in model.named_parameters():
        module_name, _, own = name.rpartition(".")
        found = re.search(r"\.(\d+)\.", name)
        layer = int(found[1]) if found else None
        shape, frozen = tuple(parameter.shape), lora is not None
        use: Use = "other"
        if id(parameter) in tables:
            use = "table"
        elif len(shape) > 1:
            use = "matrix"
        called = module_name if own == "weight" else name
        yield Weight(called, shape, use, not frozen, layer, _active(name, config))
        if lora is not None and own == "weight" and module_name in targets:
            out, into = shape
            yield Weight(f"{module_name}.lora_A", (lora.rank, into), "matrix", True, layer)
            yield Weight(f"{module_name}.lora_B", (out, lora.rank), "matrix", True, layer)


def _active(name: str, config: Any) -> float:
    """Which share of a parameter a token uses: of experts those it is sent to."""
    if ".experts." not in name:
        return 1.0
    count = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    return float(config.num_experts_per_tok / count) if count else 1.0


def _intermediate(config: Any) -> int:
    """Width of an MLP, or of all the experts together that a token is sent to."""
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if not experts:
        return int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    each = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return int(config.num_experts_per_tok * each + shared)
