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
    own continue; `queries` says how many last tokens of each segment ask, by default all; `window`
    counts positions; with `softcap`, scores are softcap * tanh(score / softcap).
    """
    num_groups = q_UHD.shape[1] // k_TKD.shape[1]
    k_THD, v_THD = (x.repeat_interleave(num_groups, dim=1) for x in (k_TKD, v_TKD))
    prefixes = [-1] * len(lengths) if prefix_of is None else list(prefix_of)
    starts = [0 if prefix < 0 else lengths[prefix] for prefix in prefixes]
    segment_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    prefix_T = torch.tensor(prefixes)[segment_T]
    position_T = torch.cat([s + torch.arange(n) for s, n in zip(starts, lengths, strict=True)])
    asks_T = torch.cat(
        [
            torch.arange(length) >= length - count
            for length, count in zip(lengths, queries or lengths, strict=True)
        ]
    )
    distance_UT = position_T[asks_T, None] - position_T[None, :]
    same_UT = segment_T[asks_T, None] == segment_T[None, :]
    in_prefix_UT = prefix_T[asks_T, None] == segment_T[None, :]
    allowed_UT = (same_UT & (distance_UT >= 0)) | in_prefix_UT
    if window is not None:
        allowed_UT &= distance_UT < window
    scores_HUT = torch.einsum("qhd,khd->hqk", q_UHD, k_THD) * scale
    if softcap is not None:
        scores_HUT = softcap * torch.tanh(scores_HUT / softcap)
    weights_HUT = scores_HUT.masked_fill(~allowed_UT, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights_HUT, v_THD)


def rms_norm(
    x: torch.Tensor, weight_D: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight), over the last axis: (..., D)."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (offset + weight_D)


def rotate(x_THD: torch.Tensor, cos_TR: torch.Tensor, sin_TR: torch.Tensor) -> torch.Tensor:
    """Columns i and i + R / 2 of a head, as a point, turned by the token's angle i: (T, H, D)."""
    half = cos_TR.shape[1] // 2
    cos, sin = cos_TR[:, None, :half], sin_TR[:, None, :half]
    a, b, rest = x_THD.split([half, half, x_THD.shape[2] - 2 * half], dim=2)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=2)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up: the shape of gate."""
    return gate * gate.sigmoid() * up


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
