"""The Triton kernel of `cross_entropy.cross_entropy_tile`, for CUDA; the formulas stand there.

One program a row. A first sweep over the row's blocks keeps the largest capped logit so far and the
sum of the exponentials relative to it (online log-sum-exp); a second one overwrites each block by
its gradient. A block is in registers, in float32 (float64 where the logits are).
"""

import torch
import triton
import triton.language as tl

_LARGEST_BLOCK = 16384  # 32 elements for each of the 512 threads of 16 warps


def launch(
    logits_SV: torch.Tensor,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    scale: float,
    softcap: float | None,
    gradient: bool,
) -> torch.Tensor:
    """As `cross_entropy_tile`; a label outside the vocabulary gives NaN as its row's loss."""
    num_rows, num_columns = logits_SV.shape
    wide = torch.promote_types(logits_SV.dtype, torch.float32)
    losses_S = torch.empty(num_rows, dtype=wide, device=logits_SV.device)
    if num_rows > 0:
        with torch.cuda.device_of(logits_SV):
            _cross_entropy[(num_rows,)](
                *(logits_SV, labels_S.contiguous(), weights_S.to(wide).contiguous(), losses_S),
                *(logits_SV.stride(0), num_columns),
                SCALE=scale,
                SOFTCAP=softcap or 0.0,
                GRADIENT=gradient,
                BLOCK=min(_LARGEST_BLOCK, triton.next_power_of_2(num_columns)),
                num_warps=16,
            )
    return losses_S


@triton.jit
def _capped(x, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    if SOFTCAP == 0.0:
        c = x * SCALE
    else:  # tanh(x) = 2 sigmoid(2 x) - 1
        c = SOFTCAP * (2.0 * tl.sigmoid(x * (2.0 * SCALE / SOFTCAP)) - 1.0)
    return c


@triton.jit
def _slope(x, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    if SOFTCAP == 0.0:
        slope = tl.full(x.shape, SCALE, x.dtype)
    else:  # 1 - tanh(x) ** 2 = 4 sigmoid(2 x) (1 - sigmoid(2 x))
        half = tl.sigmoid(x * (2.0 * SCALE / SOFTCAP))
        slope = (4.0 * SCALE) * half * (1.0 - half)
    return slope


@triton.jit
def _cross_entropy(
    logits_ptr,
    labels_ptr,
    weights_ptr,
    losses_ptr,
    row_stride,
    num_columns,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    wide = losses_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)  # a tile may have more than 2 ** 31 elements
    logits_ptr += row * row_stride
    label = tl.load(labels_ptr + row)
    weight = tl.load(weights_ptr + row)
    # Not another row's memory, where the label is outside the vocabulary.
    is_label = (label >= 0) & (label < num_columns)
    of_label = tl.load(logits_ptr + label, mask=is_label, other=float("nan")).to(wide)

    top = tl.full((), float("-inf"), wide)
    total = tl.full((), 0.0, wide)
    for first in range(0, num_columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        is_column = column < num_columns
        x = tl.load(logits_ptr + column, mask=is_column, other=0.0).to(wide)
        c = tl.where(is_column, _capped(x, SCALE, SOFTCAP), float("-inf"))
        new_top = tl.maximum(top, tl.max(c, 0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(c - new_top), 0)
        top = new_top
    # Differences from the largest logit first: huge logits leave few digits to log(total).
    of_label = _capped(of_label, SCALE, SOFTCAP) - top
    tl.store(losses_ptr + row, weight * (tl.log(total) - of_label))

    if GRADIENT:
        for first in range(0, num_columns, BLOCK):
            column = first + tl.arange(0, BLOCK)
            is_column = column < num_columns
            x = tl.load(logits_ptr + column, mask=is_column, other=0.0).to(wide)
            p = tl.exp(_capped(x, SCALE, SOFTCAP) - top) / total
            gradient = weight * (p - (column == label)) * _slope(x, SCALE, SOFTCAP)
            tl.store(logits_ptr + column, gradient, mask=is_column)
