"""Causal attention over the segments of a packed batch: no token sees another document.

`Segments` says who sees whom; the back end does the work. All of them are held to `reference.py` by
tests/kernels/test_packed_attention.py:

    flash   flash-attn 3 or 2; CUDA, float16 and bfloat16
    varlen  torch.nn.attention.varlen; CUDA, float16 and bfloat16; no logit soft-capping
    flex    FlexAttention with a block mask; CUDA; shared prefixes without copies of their keys
    sdpa    tiles in plain torch; every device, dtype and head size

Of a plain packed batch on CUDA, "auto" takes the first of flash, varlen, flex and sdpa that can be
used; of shared prefixes the first of flex, flash, varlen and sdpa. On CPU it takes sdpa.

Cost: see the back ends; all are linear in memory and read no key that no query sees, up to tiles.

Shape legend: T tokens, U queries, H query heads, K key heads (K divides H), D head size.
"""

from typing import Any

import torch
from transformers import AttentionInterface

from sumzero.errors import ConfigError
from sumzero.kernels import (
    attention_flash,
    attention_flex,
    attention_sdpa,
    attention_varlen,
    ulysses,
)
from sumzero.kernels.segments import BACKENDS, Backends, Segments

NAME = "sumzero_packed"  # the `attn_implementation` a model is loaded with
_BACKENDS = {
    "flash": attention_flash,
    "varlen": attention_varlen,
    "flex": attention_flex,
    "sdpa": attention_sdpa,
}
_PLAIN = ("flash", "varlen", "flex", "sdpa")
_SHARED = ("flex", "flash", "varlen", "sdpa")


def choose_backends(
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    asked: str = "auto",
    softcap: float | None = None,
) -> Backends:
    """The back ends for a device and a model: `asked` for both uses, or the best that can be used.

    Raises ConfigError where the one asked for is absent or cannot take the model, or the device
    lacks the dtype.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_for_capability(capability, dtype, head_size, asked, softcap)


def choose_for_capability(
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    head_size: int,
    asked: str = "auto",
    softcap: float | None = None,
) -> Backends:
    """`choose_backends` for a GPU of a compute capability; None is a CPU."""
    if capability is not None and capability < (8, 0) and dtype == torch.bfloat16:
        raise ConfigError(
            "model.dtype: bfloat16 needs a GPU of compute capability 8.0, this one has "
            f"{capability[0]}.{capability[1]}; use float32"
        )
    refusals = {
        name: module.refusal(capability, dtype, head_size, softcap)
        for name, module in _BACKENDS.items()
    }
    if asked == "auto":
        usable = [next(x for x in order if not refusals[x]) for order in (_PLAIN, _SHARED)]
        return Backends(*usable)
    if asked not in BACKENDS:
        raise ConfigError(f"model.attention: {asked!r} is none of auto, {', '.join(BACKENDS)}")
    if refusals[asked]:
        usable_names = ", ".join(name for name in BACKENDS if not refusals[name])
        raise ConfigError(
            f"model.attention: {asked} cannot be used: {refusals[asked]}; use auto ({usable_names})"
        )
    return Backends(asked, asked)


def packed_attention(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attention of each query to its prefix, its segment's earlier tokens and itself: (U, H, D).

    `window` limits it to the last `window` positions, the token itself included; a segment's
    positions continue from those of its prefix. With `softcap`, a score s counts as softcap *
    tanh(s / softcap) (Gemma 2, arXiv 2408.00118). Where ranks share the row, q, k, v and the result
    are those of this rank's part, and all tokens are queries. Raises ValueError where the segments
    do not cover the T tokens and U queries.
    """
    if segments.ranks is not None:
        q_UHD, k_TKD, v_TKD = ulysses.whole_row(q_UHD, k_TKD, v_TKD, segments.ranks)
    if (segments.num_queries, segments.num_tokens) != (q_UHD.shape[0], k_TKD.shape[0]):
        raise ValueError(
            f"segments have {segments.num_queries} queries of {segments.num_tokens} tokens, "
            f"the batch {q_UHD.shape[0]} of {k_TKD.shape[0]}"
        )
    if not segments.num_queries:
        # Connected to all three: their gradients are zeros, so that the backward pass of whatever
        # made them runs, and with it the collectives that other ranks wait for.
        return q_UHD + k_TKD[:0].sum() + v_TKD[:0].sum()
    attend = _BACKENDS[segments.backend].attend
    out_UHD: torch.Tensor = attend(q_UHD, k_TKD, v_TKD, segments, scale, window, softcap)
    return out_UHD if segments.ranks is None else ulysses.own_part(out_UHD, segments.ranks)


def _attention_of_layer(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: (1, heads, T, D) in, (1, T, H, D) out."""
    name = type(module).__name__
    if segments is None:
        raise ConfigError(f"model: {name} does not hand packing descriptors to its attention")
    if value.shape[-1] != query.shape[-1]:
        raise ConfigError(
            f"model: {name} has values of another size than keys, as no back end takes"
        )
    if sliding_window is None and _limits_its_view(module):
        raise ConfigError(
            f"model: {name} limits what a token sees by a mask alone, which packed attention does "
            "not read"
        )
    if options.get("s_aux") is not None:
        raise ConfigError("model: packed attention has no attention sinks, which this model needs")
    if options.get("dropout"):
        raise ConfigError("model: packed attention has no dropout; set attention_dropout = 0")
    out_THD = packed_attention(
        query.squeeze(0).transpose(0, 1),
        key.squeeze(0).transpose(0, 1),
        value.squeeze(0).transpose(0, 1),
        segments,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return out_THD.unsqueeze(0), None


def _limits_its_view(module: torch.nn.Module) -> bool:
    """Whether the configuration gives this layer a window, or chunks."""
    config: Any = module.config
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return kinds[module.layer_idx] in ("sliding_attention", "chunked_attention")
    is_used = getattr(config, "use_sliding_window", True)
    return bool(is_used and getattr(config, "sliding_window", None))


AttentionInterface.register(NAME, _attention_of_layer)
