"""Plain references for the kernels: one formula each, written to be read, in any dtype.

Tests run them in float64 and hold every back end to them.
"""

from collections.abc import Sequence

import torch


def packed_attention(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    prefix_of: Sequence[int] | None = None,
    queries: Sequence[int] | None = None,
) -> torch.Tensor:
    """softmax(q k^T * scale) v, causal within each segment: (U, H, D) in the inputs' dtype.

    `prefix_of` names, or -1, an earlier segment that a segment sees whole and whose positions its
    own continue; `window` counts positions; `softcap` caps the scores by softcap * tanh(score /
    softcap); `queries` says how many last tokens of each segment are queries, by default all.
    """
    num_groups = q_UHD.shape[1] // k_TKD.shape[1]
    k_THD, v_THD = (x.repeat_interleave(num_groups, dim=1) for x in (k_TKD, v_TKD))
    prefixes = [-1] * len(lengths) if prefix_of is None else list(prefix_of)
    starts = [0 if prefix < 0 else lengths[prefix] for prefix in prefixes]
    segment_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    prefix_T = torch.tensor(prefixes)[segment_T]
    position_T = torch.cat([s + torch.arange(n) for s, n in zip(starts, lengths, strict=True)])
    distance_TT = position_T[:, None] - position_T[None, :]
    same_TT = segment_T[:, None] == segment_T[None, :]
    in_prefix_TT = prefix_T[:, None] == segment_T[None, :]
    allowed_TT = (same_TT & (distance_TT >= 0)) | in_prefix_TT
    if window is not None:
        allowed_TT &= distance_TT < window
    counts = zip(lengths, lengths if queries is None else queries, strict=True)
    is_query_T = torch.cat([torch.arange(n) >= n - asked for n, asked in counts])
    scores_HUT = torch.einsum("qhd,khd->hqk", q_UHD, k_THD) * scale
    if softcap is not None:
        scores_HUT = softcap * torch.tanh(scores_HUT / softcap)
    hidden_UT = ~allowed_TT[is_query_T]
    weights_HUT = scores_HUT.masked_fill(hidden_UT, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HUT, v_THD)
