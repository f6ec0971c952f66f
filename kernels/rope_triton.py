"""Triton kernel of the rotary embedding; `rope.py` says what it computes. Imported where launched.

A program takes one token: it loads the token's angles once (of their equal halves the first) and
goes over the heads of q, then of k, a few at a time, so that registers do not grow with the number
of heads. Both ways, forward and backward, are this kernel.

Shape legend: T tokens, H query heads, K key heads, D head size, R rotary size.
"""

import torch
import triton
import triton.language as tl


def turn(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    cos_TR: torch.Tensor,
    sin_TR: torch.Tensor,
    inverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries (T, H, D) and keys (T, K, D) rotated by the angles, or back with `inverse`."""
    q_THD, k_TKD, cos_TR, sin_TR = (_whole_columns(x) for x in (q_THD, k_TKD, cos_TR, sin_TR))
    out_q_THD, out_k_TKD = q_THD.new_empty(q_THD.shape), k_TKD.new_empty(k_TKD.shape)
    tokens, size, rotary = len(q_THD), q_THD.shape[2], cos_TR.shape[1]
    half = triton.next_power_of_2(rotary // 2)
    if tokens:
        with torch.cuda.device_of(q_THD):
            _turn_kernel[(tokens,)](
                *(q_THD, k_TKD, cos_TR, sin_TR, out_q_THD, out_k_TKD),
                *(*q_THD.stride()[:2], *k_TKD.stride()[:2], cos_TR.stride(0), sin_TR.stride(0)),
                *(q_THD.shape[1], k_TKD.shape[1], size, rotary),
                INVERSE=inverse,
                HEADS=max(1, 1024 // half),
                HALF=half,
                REST=triton.next_power_of_2(size - rotary) if size > rotary else 0,
                num_warps=4,
            )
    return out_q_THD, out_k_TKD


def _whole_columns(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def _turn_kernel(
    q_ptr,
    k_ptr,
    cos_ptr,
    sin_ptr,
    out_q_ptr,
    out_k_ptr,
    q_token_stride,
    q_head_stride,
    k_token_stride,
    k_head_stride,
    cos_stride,
    sin_stride,
    num_q_heads,
    num_k_heads,
    size,
    rotary,
    INVERSE: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, HALF)
    in_half = column < rotary // 2
    cos = tl.load(cos_ptr + token * cos_stride + column, in_half, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * sin_stride + column, in_half, other=0.0).to(tl.float32)
    if INVERSE:
        sin = -sin
    q_ptr += token * q_token_stride
    out_q_ptr += token * num_q_heads * size
    _turn_heads(
        q_ptr, q_head_stride, out_q_ptr, num_q_heads, size, rotary, cos, sin, HEADS, HALF, REST
    )
    k_ptr += token * k_token_stride
    out_k_ptr += token * num_k_heads * size
    _turn_heads(
        k_ptr, k_head_stride, out_k_ptr, num_k_heads, size, rotary, cos, sin, HEADS, HALF, REST
    )


@triton.jit
def _turn_heads(
    x_ptr,
    head_stride,
    out_ptr,
    num_heads,
    size,
    rotary,
    cos,
    sin,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    REST: tl.constexpr,
):
    column = tl.arange(0, HALF)
    for first_head in range(0, num_heads, HEADS):
        head = first_head + tl.arange(0, HEADS)
        mask = (head < num_heads)[:, None] & (column < rotary // 2)[None, :]
        x = x_ptr + head[:, None] * head_stride + column[None, :]
        out = out_ptr + head[:, None] * size + column[None, :]
        first = tl.load(x, mask, other=0.0).to(tl.float32)
        second = tl.load(x + rotary // 2, mask, other=0.0).to(tl.float32)
        tl.store(out, first * cos[None, :] - second * sin[None, :], mask)
        tl.store(out + rotary // 2, second * cos[None, :] + first * sin[None, :], mask)
        if REST:
            rest = rotary + tl.arange(0, REST)
            mask = (head < num_heads)[:, None] & (rest < size)[None, :]
            passed = tl.load(x_ptr + head[:, None] * head_stride + rest[None, :], mask, other=0.0)
            tl.store(out_ptr + head[:, None] * size + rest[None, :], passed, mask)
