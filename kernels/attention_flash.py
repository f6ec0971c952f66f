"""Packed attention by flash-attn's varlen kernels: one launch a layer, for all segments.

flash-attn 3 where it is installed and the device is Hopper's (compute capability 9.0), else 2. Keys
of a shared prefix are gathered once for each of its branches. CUDA, float16 or bfloat16.
"""

from importlib.util import find_spec
from typing import Any

import torch

from sumzero.kernels.segments import Segments, Varlen


def attend(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of the queries: (U, H, D)."""
    if installed_version(q_UHD.device) == 3:
        from flash_attn_interface import flash_attn_varlen_func
    else:
        from flash_attn import flash_attn_varlen_func

    varlen = segments.once("varlen", lambda: Varlen.of(segments))
    out: Any = flash_attn_varlen_func(
        q_UHD,
        varlen.keys(k_TKD),
        varlen.keys(v_TKD),
        cu_seqlens_q=varlen.query_offsets,
        cu_seqlens_k=varlen.key_offsets,
        max_seqlen_q=varlen.most_queries,
        max_seqlen_k=varlen.most_keys,
        softmax_scale=scale,
        causal=True,  # aligned at the end: a segment's queries are the last of its keys
        window_size=(-1, -1) if window is None else (window - 1, 0),
        softcap=softcap or 0.0,
    )
    # Some releases of flash-attn 3 return the log-sum-exp as well.
    attended: torch.Tensor = out[0] if isinstance(out, tuple) else out
    return attended


def installed_version(device: torch.device) -> int | None:
    """3 or 2, the one that would run on the device, or None."""
    if find_spec("flash_attn_interface") and torch.cuda.get_device_capability(device)[0] == 9:
        return 3
    return 2 if find_spec("flash_attn") else None
