"""Triton kernels of SwiGLU; `swiglu.py` says what they compute. Imported where one is launched.

A program takes 1,024 columns of one row, 8 elements a thread, whatever the width of a row: wide
rows do not run out of registers, and a width that is no power of two wastes part of one tile only.
Rows may lie apart, as the halves of a fused projection do; nothing is copied.

Shape legend: R rows, all axes but the last together; I intermediate size.
"""

import torch
import triton
import triton.language as tl

_COLUMNS = 1024


def forward(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up: (..., I)."""
    gate_RI, up_RI, out = _rows(gate), _rows(up), gate.new_empty(gate.shape)
    size = gate.shape[-1]
    if out.numel():
        with torch.cuda.device_of(gate):
            _forward_kernel[(len(gate_RI) * triton.cdiv(size, _COLUMNS),)](
                *(gate_RI, up_RI, out, gate_RI.stride(0), up_RI.stride(0), size),
                COLUMNS=_COLUMNS,
                num_warps=4,
            )
    return out


def backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and up, each (..., I)."""
    grad_RI, gate_RI, up_RI = _rows(grad), _rows(gate), _rows(up)
    grad_gate, grad_up = gate.new_empty(gate.shape), up.new_empty(up.shape)
    size = gate.shape[-1]
    if grad_gate.numel():
        with torch.cuda.device_of(gate):
            _backward_kernel[(len(gate_RI) * triton.cdiv(size, _COLUMNS),)](
                *(grad_RI, gate_RI, up_RI, grad_gate, grad_up),
                *(grad_RI.stride(0), gate_RI.stride(0), up_RI.stride(0), size),
                COLUMNS=_COLUMNS,
                num_warps=4,
            )
    return grad_gate, grad_up


def _rows(x: torch.Tensor) -> torch.Tensor:
    x_RI = x.reshape(-1, x.shape[-1])
    return x_RI if x_RI.stride(1) == 1 else x_RI.contiguous()


@triton.jit
def _forward_kernel(gate_ptr, up_ptr, out_ptr, gate_stride, up_stride, size, COLUMNS: tl.constexpr):
    tiles = tl.cdiv(size, COLUMNS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    column = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < size
    gate = tl.load(gate_ptr + row * gate_stride + column, mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * size + column, gate * tl.sigmoid(gate) * up, mask)


@triton.jit
def _backward_kernel(
    grad_ptr,
    gate_ptr,
    up_ptr,
    grad_gate_ptr,
    grad_up_ptr,
    grad_stride,
    gate_stride,
    up_stride,
    size,
    COLUMNS: tl.constexpr,
):
    tiles = tl.cdiv(size, COLUMNS)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    column = (tl.program_id(0) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < size
    grad = tl.load(grad_ptr + row * grad_stride + column, mask, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + column, mask, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    tl.store(grad_gate_ptr + row * size + column, grad_gate, mask)
    tl.store(grad_up_ptr + row * size + column, grad * gate * sigmoid, mask)
