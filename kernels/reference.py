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
    prefix_of: Sequence[int] | None = None,
) -> torch.Tensor:
    """softmax(q k^T * scale) v, causal within each segment: (T, H, D) in the inputs' dtype.

    `prefix_of` names, or -1, an earlier segment that a segment sees whole and whose positions its
    own continue; `window` counts positions.
    """
    num_groups = q_THD.shape[1] // k_TKD.shape[1]
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
    scores_HTT = torch.einsum("qhd,khd->hqk", q_THD, k_THD) * scale
    weights_HTT = scores_HTT.masked_fill(~allowed_TT, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HTT, v_THD)


def linear_cross_entropy(
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    *,
    bias_V: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Weighted sum of -log softmax(logits)[label]; the softmax at least in float32, a scalar."""
    logits_SV = torch.nn.functional.linear(hidden_SD, weight_VD, bias_V)
    logits_SV = scale * logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32))
    if softcap is not None:
        logits_SV = softcap * torch.tanh(logits_SV / softcap)
    log_p_S = logits_SV.log_softmax(1).gather(1, labels_S[:, None]).squeeze(1)
    return -(weights_S.to(log_p_S.dtype) * log_p_S).sum()
