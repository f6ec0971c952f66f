"""RMSNorm over the last axis, alone and behind a residual addition, as `torch.library` ops.

    x_hat = x / sqrt(mean(x^2) + eps)        out = x_hat * (offset + weight)
    d x = (g - x_hat * mean(g * x_hat)) / sqrt(mean(x^2) + eps)        g = d out * (offset + weight)
    d weight = sum over rows of d out * x_hat

All in float32, whatever the dtype of x. On CUDA one Triton kernel each way (rms_norm_triton.py),
which rounds once; on CPU plain torch, whose outputs are bit for bit those of transformers' modules.
Kept for the backward pass: x (with a residual: the sum, which the next layer keeps as well) and a
float32 a row; torch's own backward of the plain formula keeps 6 bytes an element of bfloat16 more.

Cost: a pass over memory each way: 4 bytes an element of bfloat16 forward (8 with a residual), 6
backward (8), and a float32 row of the weight's gradient a program. On CPU the backward takes a few
rows at a time, so that their float32 copies stay in the cache.

Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.
Shape legend: D size of the last axis, R rows, all other axes together.
"""

from typing import Any

import torch

# Of the CPU's backward pass: few enough for the cache (2 MiB in float32), and enough that threads
# of a busy machine do not wait for each other too often.
_ELEMENTS_AT_A_TIME = 512 * 1024


def rms_norm(
    x: torch.Tensor, weight_D: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight): the shape and dtype of x, (..., D).

    `offset` is 0 for Llama's norm, 1 for Gemma's. Raises ValueError where x and the weight
    differ in D or dtype.
    """
    _check(x, weight_D)
    out: torch.Tensor = torch.ops.sumzero.rms_norm.default(x, None, weight_D, eps, offset)[0]
    return out


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight_D: torch.Tensor, eps: float, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x + residual, and x + residual: each of the shape and dtype of x, (..., D).

    Raises ValueError where x and the residual, or x and the weight, do not go together.
    """
    _check(x, weight_D)
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise ValueError(f"x is {_said(x)}, the residual {_said(residual)}")
    out, added, _ = torch.ops.sumzero.rms_norm.default(x, residual, weight_D, eps, offset)
    return out, added


def _check(x: torch.Tensor, weight_D: torch.Tensor) -> None:
    if weight_D.shape != x.shape[-1:] or weight_D.dtype != x.dtype:
        raise ValueError(f"x is {_said(x)}, the weight {_said(weight_D)}")


def _said(x: torch.Tensor) -> str:
    return f"{tuple(x.shape)} in {x.dtype}"


# Declared by schema, not by `custom_op`, whose checks of each call cost as much again as the call.
# Without a residual, `sum` is empty; without `with_weight`, so is the gradient of the weight.
torch.library.define(
    "sumzero::rms_norm",
    "(Tensor x, Tensor? residual, Tensor weight, float eps, float offset)"
    " -> (Tensor out, Tensor sum, Tensor rstd)",
)
torch.library.define(
    "sumzero::rms_norm_backward",
    "(Tensor grad, Tensor? grad_sum, Tensor x, Tensor weight, Tensor rstd, float offset,"
    " bool with_weight) -> (Tensor, Tensor)",
)


@torch.library.impl("sumzero::rms_norm", "CPU")
def _plain(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight_D: torch.Tensor,
    eps: float,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    added = x.new_empty(0) if residual is None else x + residual
    x = x if residual is None else added
    x_hat = x.float()
    rstd = torch.rsqrt(x_hat.pow(2).mean(-1, keepdim=True) + eps)
    x_hat = x_hat * rstd
    # The order of rounding is that of transformers' modules of each kind.
    out = x_hat.to(x.dtype) * weight_D if offset == 0.0 else x_hat * (offset + weight_D.float())
    return out.to(x.dtype), added, rstd.flatten()


@torch.library.impl("sumzero::rms_norm_backward", "CPU")
def _plain_backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight_D: torch.Tensor,
    rstd_R: torch.Tensor,
    offset: float,
    with_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    size = x.shape[-1]
    scale_D = weight_D.float() + offset
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_weight_D = torch.zeros_like(scale_D) if with_weight else scale_D.new_empty(0)
    rows = max(1, _ELEMENTS_AT_A_TIME // size)
    whole = (x.reshape(-1, size), grad.reshape(-1, size), grad_x.view(-1, size), rstd_R[:, None])
    sums = None if grad_sum is None else grad_sum.reshape(-1, size).split(rows)
    for index, (x_RD, grad_RD, out_RD, rstd_R1) in enumerate(
        zip(*(tensor.split(rows) for tensor in whole), strict=True)
    ):
        x_hat_RD = x_RD.float() * rstd_R1
        product_RD = grad_RD * x_hat_RD
        if with_weight:
            # Not a product with ones, which adds one by one: 26 times the error at 32,768 rows.
            grad_weight_D += product_RD.sum(0)
        mean_R1 = product_RD.mul_(scale_D).mean(1, keepdim=True)
        grad_x_RD = (grad_RD * scale_D).addcmul_(x_hat_RD, mean_R1, value=-1).mul_(rstd_R1)
        out_RD.copy_(grad_x_RD if sums is None else grad_x_RD.add_(sums[index]))
    return grad_x, grad_weight_D.to(weight_D.dtype)


@torch.library.impl("sumzero::rms_norm", "CUDA")
def _fused(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight_D: torch.Tensor,
    eps: float,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from sumzero.kernels.rms_norm_triton import forward

    return forward(x, residual, weight_D, eps, offset)


@torch.library.impl("sumzero::rms_norm_backward", "CUDA")
def _fused_backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight_D: torch.Tensor,
    rstd_R: torch.Tensor,
    offset: float,
    with_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from sumzero.kernels.rms_norm_triton import backward

    return backward(grad, grad_sum, x, weight_D, rstd_R, offset, with_weight)


@torch.library.register_fake("sumzero::rms_norm")
def _shapes(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight_D: torch.Tensor,
    eps: float,
    offset: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    added = x.new_empty(0 if residual is None else x.shape)
    return x.new_empty(x.shape), added, x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)


@torch.library.register_fake("sumzero::rms_norm_backward")
def _shapes_backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor | None,
    x: torch.Tensor,
    weight_D: torch.Tensor,
    rstd_R: torch.Tensor,
    offset: float,
    with_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), weight_D.new_empty(weight_D.shape if with_weight else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, residual, weight_D, _, ctx.offset = inputs
    _, added, rstd_R = output
    ctx.adds = residual is not None
    ctx.save_for_backward(added if ctx.adds else x, weight_D, rstd_R)


def _gradients(
    ctx: Any, grad: torch.Tensor, grad_sum: torch.Tensor, _: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    x, weight_D, rstd_R = ctx.saved_tensors
    with_weight = ctx.needs_input_grad[2]
    grad_x, grad_weight_D = torch.ops.sumzero.rms_norm_backward.default(
        grad, grad_sum if ctx.adds else None, x, weight_D, rstd_R, ctx.offset, with_weight
    )
    return grad_x, grad_x if ctx.adds else None, grad_weight_D if with_weight else None, None, None


torch.library.register_autograd("sumzero::rms_norm", _gradients, setup_context=_keep)
