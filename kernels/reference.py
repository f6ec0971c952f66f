"""Plain references for the kernels: one formula each, written to be read, in any dtype.

Tests run them in float64 and hold every back end to them.
"""

from collections.abc import Sequence

import torch


def packed_attention(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """softmax(q k^T * scale) v within each segment, causal: (T, H, D) in the inputs' dtype."""
    num_groups = q_THD.shape[1] // k_TKD.shape[1]
    k_THD, v_THD = (x.repeat_interleave(num_groups, dim=1) for x in (k_TKD, v_TKD))
    segment_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    position_T = torch.arange(len(segment_T))
    distance_TT = position_T[:, None] - position_T[None, :]
    allowed_TT = (segment_T[:, None] == segment_T[None, :]) & (distance_TT >= 0)
    if window is not None:
        allowed_TT &= distance_TT < window
    scores_HTT = torch.einsum("qhd,khd->hqk", q_THD, k_THD) * scale
    weights_HTT = scores_HTT.masked_fill(~allowed_TT, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HTT, v_THD)
