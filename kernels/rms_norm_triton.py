"""Triton kernels of RMSNorm; `rms_norm.py` says what they compute. Imported where one is launched.

A tile is as many whole rows as give each thread 16 elements, so that a norm over a head of 128
keeps a block of threads as busy as one over a hidden size of 4,096. Forward: a program a tile.
Backward: a few programs a multiprocessor, each over every so-many-th tile, with its share of the
weight's gradient in registers until the end. The shares are summed in a fixed order: no atomics,
so the gradient is the same in every run on the same device.

Shape legend: R rows, D columns, P programs.
"""

import torch
import triton
import triton.language as tl

_WARPS_OF_A_MULTIPROCESSOR = 16  # in the backward kernel, by its registers


def forward(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight_D: torch.Tensor,
    eps: float,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The norm (..., D), x + residual (..., D; empty without one), 1 / rms (R) in float32."""
    adds = residual is not None
    x_RD, size = _rows(x), x.shape[-1]
    residual_RD = x_RD if residual is None else _rows(residual)
    num_rows = len(x_RD)
    out, added = x.new_empty(x.shape), x.new_empty(x.shape if adds else 0)
    rstd_R = x.new_empty(num_rows, dtype=torch.float32)
    rows, columns, num_warps = _tile(size)
    if num_rows:
        with torch.cuda.device_of(x):
            _forward_kernel[(triton.cdiv(num_rows, rows),)](
                *(x_RD, residual_RD, weight_D, out, added, rstd_R),
                *(x_RD.stride(0), residual_RD.stride(0), num_rows, size, eps, offset),
                ADDS=adds,
                ROWS=rows,
                COLUMNS=columns,
                num_warps=num_warps,
            )
    return out, added, rstd_R


def backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight_D: torch.Tensor,
    rstd_R: torch.Tensor,
    offset: float,
    with_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x (..., D) and the weight (D; empty without `with_weight`).

    `grad_sum`, what x + residual got from elsewhere, is added to the first.
    """
    x_RD, grad_RD, size = _rows(x), _rows(grad), x.shape[-1]
    grad_sum_RD = grad_RD if grad_sum is None else _rows(grad_sum)
    num_rows = len(x_RD)
    rows, columns, num_warps = _tile(size)
    num_programs = min(triton.cdiv(num_rows, rows), _most_programs(x.device, num_warps))
    grad_x = x.new_empty(x.shape)
    shares_PD = rstd_R.new_empty((num_programs, size) if with_weight else 0)
    if num_rows:
        with torch.cuda.device_of(x):
            _backward_kernel[(num_programs,)](
                *(grad_RD, grad_sum_RD, x_RD, weight_D, rstd_R, grad_x, shares_PD),
                *(grad_RD.stride(0), grad_sum_RD.stride(0), x_RD.stride(0)),
                *(num_rows, size, offset),
                ADDS=grad_sum is not None,
                WITH_WEIGHT=with_weight,
                ROWS=rows,
                COLUMNS=columns,
                num_warps=num_warps,
            )
    return grad_x, (shares_PD.sum(0) if with_weight else shares_PD).to(weight_D.dtype)


def _rows(x: torch.Tensor) -> torch.Tensor:
    x_RD = x.reshape(-1, x.shape[-1])
    return x_RD if x_RD.stride(1) == 1 else x_RD.contiguous()


def _tile(size: int) -> tuple[int, int, int]:
    """Rows, columns and warps of a tile: 16 elements a thread, 4 warps at least."""
    columns = triton.next_power_of_2(size)
    return max(1, 2048 // columns), columns, min(max(4, columns // 512), 32)


def _most_programs(device: torch.device, num_warps: int) -> int:
    if device.type != "cuda":  # Triton's interpreter; few, so that tests see a program's loop
        return 3
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return multiprocessors * max(1, _WARPS_OF_A_MULTIPROCESSOR // num_warps)


@triton.jit
def _forward_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    sum_ptr,
    rstd_ptr,
    x_stride,
    residual_stride,
    num_rows,
    size,
    eps,
    offset,
    ADDS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < num_rows)[:, None] & (column < size)[None, :]
    place = row[:, None] * size + column[None, :]
    x = tl.load(x_ptr + row[:, None] * x_stride + column[None, :], mask, other=0.0)
    if ADDS:
        residual_place = row[:, None] * residual_stride + column[None, :]
        residual = tl.load(residual_ptr + residual_place, mask, other=0.0)
        # Rounded first: what is normed is the sum that the next layer gets.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + place, x, mask)
    x = x.to(tl.float32)
    weight = tl.load(weight_ptr + column, column < size, other=0.0).to(tl.float32) + offset
    rstd = tl.rsqrt(tl.sum(x * x, 1) / size + eps)
    tl.store(rstd_ptr + row, rstd, row < num_rows)
    tl.store(out_ptr + place, x * rstd[:, None] * weight[None, :], mask)


@triton.jit
def _backward_kernel(
    grad_ptr,
    grad_sum_ptr,
    x_ptr,
    weight_ptr,
    rstd_ptr,
    grad_x_ptr,
    shares_ptr,
    grad_stride,
    grad_sum_stride,
    x_stride,
    num_rows,
    size,
    offset,
    ADDS: tl.constexpr,
    WITH_WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    weight = tl.load(weight_ptr + column, column < size, other=0.0).to(tl.float32) + offset
    # Of each row of the tile, since a sum over rows exchanges data among threads: once is enough.
    share = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(num_rows, ROWS), tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        mask = (row < num_rows)[:, None] & (column < size)[None, :]
        grad_place = row[:, None] * grad_stride + column[None, :]
        grad = tl.load(grad_ptr + grad_place, mask, other=0.0).to(tl.float32)
        x_place = row[:, None] * x_stride + column[None, :]
        rstd = tl.load(rstd_ptr + row, row < num_rows, other=0.0)
        x_hat = tl.load(x_ptr + x_place, mask, other=0.0).to(tl.float32) * rstd[:, None]
        if WITH_WEIGHT:
            share += grad * x_hat
        grad *= weight[None, :]
        mean = tl.sum(grad * x_hat, 1) / size
        grad_x = (grad - x_hat * mean[:, None]) * rstd[:, None]
        if ADDS:
            sum_place = row[:, None] * grad_sum_stride + column[None, :]
            grad_x += tl.load(grad_sum_ptr + sum_place, mask, other=0.0).to(tl.float32)
        tl.store(grad_x_ptr + row[:, None] * size + column[None, :], grad_x, mask)
    if WITH_WEIGHT:
        place = tl.program_id(0).to(tl.int64) * size + column
        tl.store(shares_ptr + place, tl.sum(share, 0), column < size)
