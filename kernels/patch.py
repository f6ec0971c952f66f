"""Puts SumZero's layers into a transformers model, and takes them out again.

    fused = patch(model)    # norms, MLPs and decoder layers run our forward
    fused.undo()            # as it was

Only `forward` of single modules is replaced; modules, parameters and their names stay, so that
ZeRO's hooks, adapters and checkpoints see the model they know. What is replaced where:

    RMSNorm                          every model whose norm is one of _NORMS
    SwiGLU                           every MLP of gate, up and down projection whose gate is SiLU
    the decoder layer, the last of
    which keeps supervised positions  Llama, Mistral, Qwen2, Qwen3, Qwen3-MoE

Other models run their own layers, with packed attention.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from sumzero.errors import ConfigError
from sumzero.kernels.decoder_layer import Queries, decoder_layer
from sumzero.kernels.rms_norm import add_rms_norm, rms_norm
from sumzero.kernels.segments import Segments
from sumzero.kernels.swiglu import swiglu

_LAYERS = ("Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3Moe")
# Norm -> what is added to its weight: Gemma's weights are distances from 1.
_NORMS = {f"{name}RMSNorm": 0.0 for name in (*_LAYERS, "Granite", "Phi3")} | {
    f"{name}RMSNorm": 1.0 for name in ("Gemma", "Gemma2", "Gemma3")
}


class Patch:
    """The modules of a model whose `forward` is ours."""

    def __init__(self, replaced: list[nn.Module], *, trims: bool) -> None:
        self._replaced = replaced
        self.trims = trims  # whether the last layer takes `queries`

    def undo(self) -> None:
        """Gives every module its own `forward` back; once is enough."""
        for module in self._replaced:
            del module.forward
        self._replaced, self.trims = [], False


def patch(model: nn.Module) -> Patch:
    """Replaces `forward` of what is known, in place.

    Raises ConfigError where a layer that is replaced has dropout, which packed attention has not.
    """
    known = {f"{name}DecoderLayer" for name in _LAYERS}
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ in known]
    if any(layer.self_attn.attention_dropout for layer in layers):
        raise ConfigError("model: packed attention has no dropout; set attention_dropout to 0")
    for layer in layers:
        _replace(layer, _last_layer if layer is layers[-1] else _layer)
    return Patch([*_norms(model), *_mlps(model), *layers], trims=bool(layers))


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        offset = _NORMS.get(type(module).__name__)
        if offset is None:
            continue
        eps: Any = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        _replace(module, partial(_norm, eps, offset))
        yield module


def _norm(
    eps: float, offset: float, norm: Any, x: torch.Tensor, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    if residual is None:
        return rms_norm(x, norm.weight, eps, offset)
    return add_rms_norm(x, residual, norm.weight, eps, offset)


def _mlps(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        has = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn"))
        if has and isinstance(module.gate_proj, nn.Module) and _is_silu(module.act_fn):
            _replace(module, _mlp)
            yield module


def _is_silu(activation: Any) -> bool:
    return isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"


def _replace(module: nn.Module, forward: Callable[..., Any]) -> None:
    module.forward = MethodType(forward, module)


def _mlp(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = mlp.down_proj(swiglu(mlp.gate_proj(x), mlp.up_proj(x)))
    return out


def _layer(
    layer: nn.Module,
    hidden_states: torch.Tensor,
    *,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    segments: Segments,
    **ignored: Any,
) -> torch.Tensor:
    return decoder_layer(layer, hidden_states, position_embeddings, segments)


def _last_layer(
    layer: nn.Module,
    hidden_states: torch.Tensor,
    *,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    segments: Segments,
    queries: Queries | None = None,
    **ignored: Any,
) -> torch.Tensor:
    return decoder_layer(layer, hidden_states, position_embeddings, segments, queries)
