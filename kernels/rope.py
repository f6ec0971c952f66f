"""Rotary position embedding at given positions, in the half-rotation layout of Llama.

Shape legend: T tokens, H query heads, K key heads, D head size, R rotary size (even, R <= D).
"""

import torch


def rope(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, cos_TR: torch.Tensor, sin_TR: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys, rotated: (T, H, D) and (T, K, D) in one launch.

    The first R of D columns are rotated, the rest pass. Both halves of cos and sin are equal.
    """
    return rotate(q_THD, cos_TR, sin_TR), rotate(k_TKD, cos_TR, sin_TR)


def rotate(x_THD: torch.Tensor, cos_TR: torch.Tensor, sin_TR: torch.Tensor) -> torch.Tensor:
    """One tensor, rotated: (T, H, D); for a layer that has fewer queries than keys."""
    size = cos_TR.shape[-1]
    turned_THR, rest = x_THD[..., :size], x_THD[..., size:]
    first, second = turned_THR.chunk(2, -1)
    half_THR = torch.cat((-second, first), -1)
    out_THR = turned_THR * cos_TR[:, None] + half_THR * sin_TR[:, None]
    return out_THR if size == x_THD.shape[-1] else torch.cat((out_THR, rest), -1)
