"""Attention over segments by flash-attn: version 3 on Hopper where it is installed, else 2.

One launch a layer; CUDA, float16 or bfloat16, head sizes up to 256 in steps of 8, windows, logit
soft-capping. Both versions align a causal mask at the end (version 2 since 2.1) and take segments
without queries. Memory is linear in the keys; shared prefixes are copied, see `ragged`.

Cost: sum of u * (p + l - u / 2) over the segments: u queries, length l, a prefix of length p.
"""

from importlib.util import find_spec
from typing import Any

import torch

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
    """`packed_attention` on flash-attn: (U, H, D)."""
    flash_attn_varlen_func = _load(torch.cuda.get_device_capability(q_UHD.device))
    keys = segments.of_window(None, ragged)
    out = flash_attn_varlen_func(
        q_UHD,
        keys.gather(k_TKD),
        keys.gather(v_TKD),
        cu_seqlens_q=keys.query_offsets,
        cu_seqlens_k=keys.key_offsets,
        max_seqlen_q=keys.longest_queries,
        max_seqlen_k=keys.longest_keys,
        softmax_scale=scale,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
    )
    out_UHD: torch.Tensor = out[0] if isinstance(out, tuple) else out  # first releases of 3: a pair
    return out_UHD


def refusal(
    capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, softcap: float | None
) -> str:
    """Why it cannot be used on a GPU of that compute capability (None: no GPU), or ""."""
    problem = ragged_refusal(capability, dtype, head_size)
    if problem or capability is None:
        return problem
    if find_spec("flash_attn_interface") is None and find_spec("flash_attn_2_cuda") is None:
        return "flash-attn is not installed (pip install 'sumzero[flash]')"
    try:
        _load(capability)
    except ImportError as error:  # built for another torch, or for another GPU
        return f"flash-attn cannot be loaded: {' '.join(str(error).split())}"
    return ""


def _load(capability: tuple[int, int]) -> Any:
    """The varlen function, of version 3 on Hopper where it is installed. Raises ImportError."""
    if capability[0] == 9 and find_spec("flash_attn_interface"):
        from flash_attn_interface import flash_attn_varlen_func
    else:
        from flash_attn import flash_attn_varlen_func
    return flash_attn_varlen_func
