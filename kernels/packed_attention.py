"""Causal attention over the segments of a packed batch: no token sees another document.

A bin of several documents is one row of tokens; `Segments` says where each begins and ends, which
prefix it sees as well, and which of its tokens ask. Packed documents, documents read once for
several targets, and a last layer with fewer queries than keys are three uses of one function.

Back ends, all held to `reference.py` by tests/kernels/test_packed_attention.py:

    flash   flash-attn's varlen kernels, 3 or 2: one launch a layer; CUDA, float16 or bfloat16
    varlen  torch's own varlen kernel: the same without another package; no soft-capped scores
    flex    FlexAttention with a block mask: reads shared prefixes where they lie; CUDA
    sdpa    torch's scaled_dot_product_attention, a call a segment or a few short branches of one
            prefix; every device and dtype

Cost: sum of q * (p + l - q / 2) over the segments, of q queries and length l behind a prefix of
length p. Memory is linear in the keys, p + l a segment; only sdpa holds masks (attention_sdpa.py).

Shape legend: T tokens, U queries, H query heads, K key heads (K divides H), D head size.
"""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import AttentionInterface

from sumzero.errors import ConfigError
from sumzero.kernels import attention_flash, attention_flex, attention_sdpa, attention_varlen
from sumzero.kernels.segments import Backends, Segments

NAME = "sumzero_packed"  # the `attn_implementation` a model is loaded with
BACKENDS = {
    "flash": attention_flash.attend,
    "varlen": attention_varlen.attend,
    "flex": attention_flex.attend,
    "sdpa": attention_sdpa.attend,
}
_HALF = (torch.float16, torch.bfloat16)


def choose_backends(
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    asked: str = "auto",
    *,
    softcap: bool = False,
) -> Backends:
    """The back ends for a device, dtype and head size: `asked` for all rows, or the fastest there.

    By "auto", rows of whole documents take the first of BACKENDS that can run, rows with shared
    prefixes flex, else the same; `softcap` says whether the model caps its scores. Raises
    ConfigError where the one asked for is absent or cannot run this model, or the device lacks the
    dtype.
    """
    if device.type == "cuda" and dtype == torch.bfloat16 and not _is_ampere(device):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"model.dtype: {name} has no bfloat16; float32 would work")
    missing = {name: _missing(name, device, dtype, head_size, softcap) for name in BACKENDS}
    able = [name for name, reason in missing.items() if not reason]
    if asked == "auto":
        return Backends(able[0], "flex" if "flex" in able else able[0])
    if asked not in BACKENDS:
        raise ConfigError(f"model.attention: {asked!r} is none of auto, {', '.join(BACKENDS)}")
    if missing[asked]:
        raise ConfigError(
            f"model.attention: {asked} cannot be used: {missing[asked]}; "
            f"here work auto, {', '.join(able)}"
        )
    return Backends(asked, asked)


def _missing(
    backend: str, device: torch.device, dtype: torch.dtype, head_size: int, softcap: bool
) -> str:
    """Why a back end cannot run, or nothing."""
    if backend == "sdpa":
        return ""
    if device.type != "cuda":
        return f"it runs on CUDA, the device is {device.type}"
    if backend == "flex":
        if find_spec("triton") is None:
            return "triton is not installed (pip install triton)"
        return "" if 16 <= head_size <= 256 else f"its head sizes are 16 to 256, not {head_size}"
    if dtype not in _HALF:
        return f"it takes float16 and bfloat16, the model is {dtype}"
    if head_size % 8 or head_size > 256:
        return f"its head sizes are multiples of 8 up to 256, not {head_size}"
    if not _is_ampere(device):
        return f"it needs compute capability 8.0, {torch.cuda.get_device_name(device)} has less"
    if backend == "varlen":
        return "it has no soft-capped scores, which this model needs" if softcap else ""
    if attention_flash.installed_version(device) is None:
        return "flash-attn is not installed (pip install 'sumzero[flash]')"
    return ""


def _is_ampere(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


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
    positions continue from those of its prefix. With `softcap`, scores are
    softcap * tanh(score / softcap). Raises ValueError where the segments do not cover the U queries
    and T tokens.
    """
    covered = (sum(segments.queries), sum(segments.lengths))
    if covered != (q_UHD.shape[0], k_TKD.shape[0]):
        raise ValueError(
            f"segments cover {covered[0]} queries and {covered[1]} tokens, "
            f"the batch has {q_UHD.shape[0]} and {k_TKD.shape[0]}"
        )
    if not covered[0]:  # connected to all three: collectives wait for every gradient
        return q_UHD + k_TKD[:0].sum() + v_TKD[:0].sum()
    attend = BACKENDS[segments.backend]
    return attend(q_UHD, k_TKD, v_TKD, segments, scale, window, softcap)


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
    if segments is None:
        name = type(module).__name__
        raise ConfigError(f"model: {name} does not hand packing descriptors to its attention")
    if options.get("s_aux") is not None or options.get("dropout"):
        lacking = "attention dropout" if options.get("dropout") else "s_aux (attention sinks)"
        raise ConfigError(f"model: packed attention has no {lacking}, which this model needs")
    out_UHD = packed_attention(
        query.squeeze(0).transpose(0, 1),
        key.squeeze(0).transpose(0, 1),
        value.squeeze(0).transpose(0, 1),
        segments,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return out_UHD.unsqueeze(0), None


AttentionInterface.register(NAME, _attention_of_layer)
