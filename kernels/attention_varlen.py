"""Packed attention by torch's own varlen kernel: flash attention without another package.

Keys of a shared prefix are gathered once for each of its branches. CUDA of compute capability 8.0,
float16 or bfloat16; no soft-capped scores.
"""

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
    from torch.nn.attention.varlen import varlen_attn

    assert softcap is None, "refused before the first step"
    varlen = segments.once("varlen", lambda: Varlen.of(segments))
    out = varlen_attn(
        q_UHD,
        varlen.keys(k_TKD),
        varlen.keys(v_TKD),
        varlen.query_offsets,
        varlen.key_offsets,
        varlen.most_queries,
        varlen.most_keys,
        scale=scale,
        # Causal, aligned at the end: a segment's queries are the last of its keys.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q_UHD.shape[1] != k_TKD.shape[1],
    )
    assert isinstance(out, torch.Tensor)  # nothing else was asked for
    return out
