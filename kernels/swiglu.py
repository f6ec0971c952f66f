"""SwiGLU's elementwise part, silu(gate) * up, with silu recomputed in the backward pass.

    out = gate * s * up, s = 1 / (1 + exp(-gate))
    d up = d out * gate * s        d gate = d out * up * s * (1 + gate * (1 - s))

On CUDA one Triton kernel each way (swiglu_triton.py), in float32 with one rounding; on CPU plain
torch, whose outputs and gradients are bit for bit those of torch's own autograd. Kept for the
backward pass: gate and up; torch's own backward keeps silu(gate) as well.

Cost: a pass over memory each way: 6 bytes an element of bfloat16 forward, 10 backward.

Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.
Shape legend: I intermediate size.
"""

from typing import Any

import torch
import torch.nn.functional as F


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up: the shape and dtype of gate, (..., I).

    Raises ValueError where up has another shape or dtype.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"gate is {tuple(gate.shape)} in {gate.dtype}, up {tuple(up.shape)} in {up.dtype}"
        )
    out: torch.Tensor = torch.ops.sumzero.swiglu.default(gate, up)
    return out


torch.library.define("sumzero::swiglu", "(Tensor gate, Tensor up) -> Tensor")
torch.library.define(
    "sumzero::swiglu_backward", "(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)"
)


@torch.library.impl("sumzero::swiglu", "CPU")
def _plain(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.silu(gate).mul_(up)


@torch.library.impl("sumzero::swiglu_backward", "CPU")
def _plain_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


@torch.library.impl("sumzero::swiglu", "CUDA")
def _fused(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    from sumzero.kernels.swiglu_triton import forward

    return forward(gate, up)


@torch.library.impl("sumzero::swiglu_backward", "CUDA")
def _fused_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    from sumzero.kernels.swiglu_triton import backward

    return backward(grad, gate, up)


@torch.library.register_fake("sumzero::swiglu")
def _shapes(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return gate.new_empty(gate.shape)


@torch.library.register_fake("sumzero::swiglu_backward")
def _shapes_backward(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return gate.new_empty(gate.shape), up.new_empty(up.shape)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grads: tuple[torch.Tensor, torch.Tensor] = torch.ops.sumzero.swiglu_backward.default(
        grad, *ctx.saved_tensors
    )
    return grads


torch.library.register_autograd("sumzero::swiglu", _gradients, setup_context=_keep)
