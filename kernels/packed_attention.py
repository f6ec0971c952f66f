"""Causal attention over the segments of a packed batch: no token sees another document.

A bin of several documents is one row of tokens; `Segments` says where each document begins and
ends. It is built once a batch, on the host, from lengths that are known anyway, and handed through
the model to every layer: nothing is inferred per layer (transformers' own inference from position
ids costs a device synchronisation in every layer).

Back ends, all held to `reference.py` by tests/kernels/test_packed_attention.py:

    flash  flash-attn's varlen kernel: one launch a layer; CUDA, float16 or bfloat16
    sdpa   torch's scaled_dot_product_attention, a call a segment; every device and dtype

Cost: sum of l^2 over the segments, as for separate sequences; memory is linear in tokens.

Shape legend: T tokens, H query heads, K key heads (K divides H), D head size, N segments.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from sumzero.errors import ConfigError

NAME = "sumzero_packed"  # the `attn_implementation` a model is loaded with
BACKENDS = ("flash", "sdpa")


@dataclass(frozen=True)
class Segments:
    """Where the segments of a packed row lie: `lengths` (N) in tokens, back to back from 0.

    `offsets` is the cumulative sum with a leading 0, (N + 1) int32 on the batch's device; `backend`
    is one of BACKENDS.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor
    backend: str

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str, backend: str) -> "Segments":
        """Builds the descriptor. Raises ValueError where a length is not positive."""
        if min(lengths, default=1) < 1:
            raise ValueError(f"segment lengths must be positive, got {list(lengths)}")
        offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        offsets[1:] = torch.tensor(list(lengths), dtype=torch.int32).cumsum(0)
        return cls(tuple(lengths), offsets.to(device, non_blocking=True), backend)


def choose_backend(device: torch.device, dtype: torch.dtype, asked: str = "auto") -> str:
    """The back end for a device and dtype: `asked`, or the fastest one that is installed.

    Raises ConfigError where the one asked for is absent or cannot take the device or dtype.
    """
    missing = _flash_is_missing(device, dtype)
    if asked == "auto":
        return "sdpa" if missing else "flash"
    if asked not in BACKENDS:
        raise ConfigError(f"model.attention: {asked!r} is none of auto, {', '.join(BACKENDS)}")
    if asked == "flash" and missing:
        raise ConfigError(f"model.attention: flash cannot be used: {missing}; use auto or sdpa")
    return asked


def _flash_is_missing(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda":
        return f"it runs on CUDA, the device is {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, the model is {dtype}"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed (pip install 'sumzero[flash]')"
    return ""


def packed_attention(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of every token to the earlier tokens of its segment and itself: (T, H, D).

    `window` limits it to the last `window` positions, the token itself included. Raises ValueError
    where the segments do not cover the T tokens.
    """
    if sum(segments.lengths) != q_THD.shape[0]:
        raise ValueError(
            f"segments cover {sum(segments.lengths)} tokens, the batch has {q_THD.shape[0]}"
        )
    if segments.backend == "flash":
        return _flash(q_THD, k_TKD, v_TKD, segments, scale, window)
    return _sdpa(q_THD, k_TKD, v_TKD, segments, scale, window)


def _sdpa(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    grouped = q_THD.shape[1] != k_TKD.shape[1]
    lengths = list(segments.lengths)
    out = []
    for q_LHD, k_LKD, v_LKD in zip(
        *(x.split_with_sizes(lengths) for x in (q_THD, k_TKD, v_TKD)), strict=True
    ):
        length = len(q_LHD)
        mask = None
        if window is not None and length > window:
            mask = torch.ones(length, length, dtype=torch.bool, device=q_LHD.device)
            mask = mask.tril().triu(1 - window)
        out_1HLD = F.scaled_dot_product_attention(
            q_LHD.transpose(0, 1).unsqueeze(0),
            k_LKD.transpose(0, 1).unsqueeze(0),
            v_LKD.transpose(0, 1).unsqueeze(0),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=grouped,
        )
        out.append(out_1HLD.squeeze(0).transpose(0, 1))
    return torch.cat(out)


def _flash(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    longest = max(segments.lengths)
    out: torch.Tensor = flash_attn_varlen_func(
        q_THD,
        k_TKD,
        v_TKD,
        cu_seqlens_q=segments.offsets,
        cu_seqlens_k=segments.offsets,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    return out


def _attention_of_layer(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: (1, heads, T, D) in, (1, T, H, D) out."""
    if segments is None:
        name = type(module).__name__
        raise ConfigError(f"model: {name} does not hand packing descriptors to its attention")
    unknown = [key for key in ("softcap", "s_aux") if options.get(key) is not None]
    if unknown or options.get("dropout"):
        names = ", ".join(unknown) or "attention dropout"
        raise ConfigError(f"model: packed attention has no {names}, which this model needs")
    out_THD = packed_attention(
        query.squeeze(0).transpose(0, 1),
        key.squeeze(0).transpose(0, 1),
        value.squeeze(0).transpose(0, 1),
        segments,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
    )
    return out_THD.unsqueeze(0), None


AttentionInterface.register(NAME, _attention_of_layer)
