"""The LM head and its loss in one operation, over supervised positions only.

    loss = sum over s of weights[s] * -log softmax(c[s])[labels[s]]
    c = softcap * tanh(scale * (h W^T + b) / softcap)      (scale * (h W^T + b) without softcap)

The rows are taken in tiles. A GEMM gives a tile's logits in the model's dtype, `cross_entropy_tile`
replaces them by their gradient, and a second GEMM gives the gradient of h: all in the forward pass,
so that the weight is used once, and the backward pass does not need it. There the third GEMM gives
the weight's gradient; the gradient of the loss is multiplied into h before it. What needs no
gradient gets none: a frozen head costs two GEMMs, `no_grad` one.

Cost: 6 S D V floating point operations with all gradients. Memory: the logits of one tile in the
model's dtype, and what `cross_entropy_tile` needs. Several tiles need a float32 sum of the weight's
gradient, 4 D V bytes; so where the weight is trained, as many rows as take no more than that are
one tile (S <= 2 D in bfloat16), which is kept for the backward pass. Else a tile is _TILE_BYTES.

Shape legend: S rows (supervised positions), D hidden size, V vocabulary, R rows of a tile,
C columns of a chunk of the vocabulary.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from sumzero.kernels.cross_entropy import cross_entropy_tile

_TILE_BYTES = 256 * 2**20
_COLUMNS_AT_A_TIME = 16384  # of a product that is added to the float32 sum


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
    """The weighted sum of the rows' cross-entropies, a scalar: float32, float64 where inputs are.

    `labels_S` (int64) lie in [0, V); `weights_S` are constants, without a gradient. No rows give 0,
    connected to the graph like any other result. Gradients are not differentiable themselves.
    Raises ValueError where dtypes or shapes do not go together.
    """
    num_rows, size = hidden_SD.shape
    if weight_VD.shape[1] != size or not labels_S.shape == weights_S.shape == (num_rows,):
        shapes = [tuple(x.shape) for x in (hidden_SD, weight_VD, labels_S, weights_S)]
        raise ValueError(f"hidden, weight, labels, weights of shapes {shapes} do not go together")
    if weight_VD.dtype != hidden_SD.dtype:
        raise ValueError(f"hidden is {hidden_SD.dtype}, the weight is {weight_VD.dtype}")
    grad = torch.is_grad_enabled()
    loss: torch.Tensor = _op(
        hidden_SD,
        weight_VD,
        bias_V,
        labels_S,
        weights_S,
        scale,
        softcap,
        grad and hidden_SD.requires_grad,
        grad and weight_VD.requires_grad,
        grad and bias_V is not None and bias_V.requires_grad,
    )[0]
    return loss


def _loss_and_gradients(
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    scale: float,
    softcap: float | None,
    grad_hidden: bool,
    grad_weight: bool,
    grad_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss; the gradients of hidden, of the weight or (one tile) of the logits, of the bias.

    A gradient that is not asked for is empty.
    """
    found = _outputs(hidden_SD, weight_VD, grad_hidden, grad_weight, grad_bias)
    loss, d_hidden_SD, d_weight, d_bias_V = found
    (num_rows, _), num_columns, one_tile = hidden_SD.shape, len(weight_VD), _is_one_tile(hidden_SD)
    if grad_weight and one_tile:
        rows, d_logits_RV = max(1, num_rows), d_weight
    else:
        rows = max(1, _TILE_BYTES // max(1, num_columns * hidden_SD.itemsize))
        d_logits_RV = hidden_SD.new_empty(min(rows, num_rows), num_columns)
        d_weight.zero_()
    for x in (loss, d_bias_V):
        x.zero_()
    for first in range(0, num_rows, rows):
        tile = slice(first, first + rows)
        h_RD = hidden_SD[tile]
        logits_RV = d_logits_RV[: len(h_RD)]
        if bias_V is None:
            torch.mm(h_RD, weight_VD.t(), out=logits_RV)
        else:
            torch.addmm(bias_V, h_RD, weight_VD.t(), out=logits_RV)
        loss += cross_entropy_tile(
            logits_RV,
            labels_S[tile],
            weights_S[tile],
            scale=scale,
            softcap=softcap,
            gradient=grad_hidden or grad_weight or grad_bias,
        ).sum()
        if grad_hidden:
            torch.mm(logits_RV, weight_VD, out=d_hidden_SD[tile])
        if grad_bias:
            d_bias_V += logits_RV.sum(0, dtype=d_bias_V.dtype)
        if grad_weight and not one_tile:
            _add_product(d_weight, logits_RV, h_RD)
    return loss, d_hidden_SD, d_weight, d_bias_V


_op = torch.library.custom_op("sumzero::linear_cross_entropy", _loss_and_gradients, mutates_args=())


@_op.register_fake
def _(
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    scale: float,
    softcap: float | None,
    grad_hidden: bool,
    grad_weight: bool,
    grad_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return _outputs(hidden_SD, weight_VD, grad_hidden, grad_weight, grad_bias)


def _outputs(
    hidden_SD: torch.Tensor,
    weight_VD: torch.Tensor,
    grad_hidden: bool,
    grad_weight: bool,
    grad_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    (num_rows, size), num_columns = hidden_SD.shape, len(weight_VD)
    wide = torch.promote_types(hidden_SD.dtype, torch.float32)
    one_tile = _is_one_tile(hidden_SD)
    of_weight = (num_rows, num_columns) if one_tile else (num_columns, size)
    return (
        hidden_SD.new_empty((), dtype=wide),
        hidden_SD.new_empty(num_rows if grad_hidden else 0, size),
        hidden_SD.new_empty(
            of_weight if grad_weight else (0, 0), dtype=hidden_SD.dtype if one_tile else wide
        ),
        hidden_SD.new_empty(num_columns if grad_bias else 0, dtype=wide),
    )


def _is_one_tile(hidden_SD: torch.Tensor) -> bool:
    """Whether all logits take no more memory than a sum of the weight's gradient would."""
    wide = torch.promote_types(hidden_SD.dtype, torch.float32)
    return hidden_SD.shape[0] * hidden_SD.itemsize <= hidden_SD.shape[1] * wide.itemsize


def _add_product(sum_VD: torch.Tensor, d_logits_RV: torch.Tensor, h_RD: torch.Tensor) -> None:
    """sum += d_logits^T h. On CUDA one product that adds in float32; on CPU by chunks of the
    vocabulary, whose product is of their dtype in between.
    """
    if h_RD.is_cuda and sum_VD.dtype != h_RD.dtype:
        torch.addmm(sum_VD, d_logits_RV.t(), h_RD, out_dtype=sum_VD.dtype, out=sum_VD)
        return
    product_CD = h_RD.new_empty(min(_COLUMNS_AT_A_TIME, len(sum_VD)), h_RD.shape[1])
    for first in range(0, len(sum_VD), _COLUMNS_AT_A_TIME):
        chunk_CD = sum_VD[first : first + _COLUMNS_AT_A_TIME]
        d_logits_RC = d_logits_RV[:, first : first + _COLUMNS_AT_A_TIME]
        chunk_CD += torch.mm(d_logits_RC.t(), h_RD, out=product_CD[: len(chunk_CD)])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # zeros as large as all logits, for an output nobody uses
    ctx.wanted = inputs[-3:]


@once_differentiable
def _backward(ctx: Any, grad: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    hidden_SD, d_hidden_SD, d_weight, d_bias_V = ctx.saved_tensors
    grad_hidden, grad_weight, grad_bias = ctx.wanted
    dtype = hidden_SD.dtype
    d_weight_VD = None
    if grad_weight and _is_one_tile(hidden_SD):
        d_weight_VD = d_weight.t() @ (hidden_SD * grad).to(dtype)
    elif grad_weight:
        d_weight_VD = torch.mul(d_weight, grad, out=torch.empty_like(d_weight, dtype=dtype))
    return (
        (d_hidden_SD * grad).to(dtype) if grad_hidden else None,
        d_weight_VD,
        (d_bias_V * grad).to(dtype) if grad_bias else None,
        *[None] * 7,
    )


_op.register_autograd(_backward, setup_context=_setup_context)
