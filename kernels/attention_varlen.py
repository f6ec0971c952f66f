"""Attention over segments by torch's own `torch.nn.attention.varlen`, which needs nothing else.

One launch a layer; CUDA, float16 or bfloat16, head sizes up to 256 in steps of 8, windows; no logit
soft-capping. Its kernel is flash-attn 2, so causal masks are aligned at the end and segments may
have no queries. Memory is linear in the keys; shared prefixes are copied, see `ragged`.

Cost: sum of u * (p + l - u / 2) over the segments: u queries, length l, a prefix of length p.
"""

from functools import cache
from inspect import signature
from typing import Any

import torch

from sumzero.errors import ConfigError
from sumzero.kernels.ragged import ragged, ragged_refusal
from sumzero.kernels.segments import Segments


def attend(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """`packed_attention` on torch's varlen attention: (U, H, D).

    Raises ConfigError where the model caps its scores.
    """
    from torch.nn.attention.varlen import varlen_attn

    if softcap is not None:
        raise ConfigError(
            "model.attention: varlen has no logit soft-capping, which the model needs; "
            "use flash, flex or sdpa"
        )
    keys = segments.of_window(None, ragged)
    # Until torch 2.12 its kernel takes fewer key heads unasked.
    grouped: Any = {"enable_gqa": q_UHD.shape[1] != k_TKD.shape[1]}
    out_UHD = varlen_attn(
        q_UHD,
        keys.gather(k_TKD),
        keys.gather(v_TKD),
        keys.query_offsets,
        keys.key_offsets,
        keys.longest_queries,
        keys.longest_keys,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),  # (-1, 0) is plainly causal
        **(grouped if _can_ask("enable_gqa") else {}),
    )
    assert isinstance(out_UHD, torch.Tensor)  # a pair only where more is asked for
    return out_UHD


def refusal(
    capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, softcap: float | None
) -> str:
    """Why it cannot be used on a GPU of that compute capability (None: no GPU), or ""."""
    if problem := ragged_refusal(capability, dtype, head_size):
        return problem
    if softcap is not None:
        return "it has no logit soft-capping, which the model needs"
    if not _can_ask("window_size"):
        return f"torch {torch.__version__} has no windows in it; a newer one has"
    return ""


@cache
def _can_ask(name: str) -> bool:
    """Whether the installed torch's varlen attention has an argument."""
    from torch.nn.attention.varlen import varlen_attn

    return name in signature(varlen_attn).parameters
