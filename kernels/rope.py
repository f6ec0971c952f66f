"""Rotary position embedding at given positions, in the half-rotation layout of Llama.

    out = x * cos + turned * sin, where turned = (-second half, first half) of the R rotary columns

The rest of a head's columns pass. The backward pass is the rotation by the opposite angle. On CUDA
one Triton kernel each way, for queries and keys together (rope_triton.py), in float32 with one
rounding; on CPU plain torch, whose outputs are bit for bit those of transformers' functions.

Cost: a pass over memory each way, 4 bytes an element of bfloat16; nothing but cos and sin is kept.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, arXiv:2104.09864.
Shape legend: T tokens, H query heads, K key heads, D head size, R rotary size (even, R <= D).
"""

from typing import Any

import torch


def rope(
    q_THD: torch.Tensor, k_TKD: torch.Tensor, cos_TR: torch.Tensor, sin_TR: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys, rotated: (T, H, D) and (T, K, D).

    cos and sin are those of each token's position; their two halves are equal, as transformers
    makes them, and they get no gradient. Raises ValueError where the shapes do not go together.
    """
    tokens, size = cos_TR.shape
    fits = len(q_THD) == len(k_TKD) == tokens and q_THD.shape[2] == k_TKD.shape[2] >= size
    if not fits or sin_TR.shape != cos_TR.shape or size % 2:
        shapes = [tuple(x.shape) for x in (q_THD, k_TKD, cos_TR, sin_TR)]
        raise ValueError(f"q, k, cos and sin of shapes {shapes} do not go together")
    out: tuple[torch.Tensor, torch.Tensor] = torch.ops.sumzero.rope.default(
        q_THD, k_TKD, cos_TR, sin_TR, False
    )
    return out


def rotate(x_THD: torch.Tensor, cos_TR: torch.Tensor, sin_TR: torch.Tensor) -> torch.Tensor:
    """One tensor, rotated: (T, H, D). For a layer that has fewer queries than keys."""
    return rope(x_THD, x_THD.new_empty(len(x_THD), 0, x_THD.shape[2]), cos_TR, sin_TR)[0]


torch.library.define(
    "sumzero::rope",
    "(Tensor q, Tensor k, Tensor cos, Tensor sin, bool inverse) -> (Tensor, Tensor)",
)


@torch.library.impl("sumzero::rope", "CPU")
def _plain(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    cos_T1R, sin_T1R = cos_TR[:, None], (-sin_TR if inverse else sin_TR)[:, None]
    return _turned(q_THD, cos_T1R, sin_T1R), _turned(k_TKD, cos_T1R, sin_T1R)


def _turned(x_THD: torch.Tensor, cos_T1R: torch.Tensor, sin_T1R: torch.Tensor) -> torch.Tensor:
    size = cos_T1R.shape[-1]
    x_THR, rest = x_THD[..., :size], x_THD[..., size:]
    first, second = x_THR.chunk(2, -1)
    out_THR = x_THR * cos_T1R + torch.cat((-second, first), -1) * sin_T1R
    return torch.cat((out_THR, rest), -1) if rest.shape[-1] else out_THR


@torch.library.impl("sumzero::rope", "CUDA")
def _fused(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from sumzero.kernels.rope_triton import turn

    return turn(q_THD, k_TKD, cos_TR, sin_TR, inverse)


@torch.library.register_fake("sumzero::rope")
def _shapes(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return q_THD.new_empty(q_THD.shape), k_TKD.new_empty(k_TKD.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, _, cos_TR, sin_TR, ctx.inverse = inputs
    ctx.save_for_backward(cos_TR, sin_TR)


def _gradients(
    ctx: Any, grad_q_THD: torch.Tensor, grad_k_TKD: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    grads = torch.ops.sumzero.rope.default(
        grad_q_THD, grad_k_TKD, *ctx.saved_tensors, not ctx.inverse
    )
    return *grads, None, None, None


torch.library.register_autograd("sumzero::rope", _gradients, setup_context=_keep)
