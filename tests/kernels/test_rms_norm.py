import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from sumzero.kernels import reference
from sumzero.kernels.rms_norm import add_rms_norm, rms_norm

EPS = 1e-5
MODULES = {0.0: Qwen3RMSNorm, 1.0: GemmaRMSNorm}
SHAPES = [(5, 24), (1, 64), (7, 3, 128), (2, 3, 2, 80), (9000, 128), (0, 8), (3, 0, 16)]
SHAPES_DTYPES_OFFSETS = [
    (shape, dtype, offset)
    for shape in SHAPES
    for dtype in (torch.float32, torch.bfloat16)
    for offset in MODULES
]


def _inputs(shape, dtype, seed=0, apart=0):
    """x, a residual, a weight and gradients of both outputs; rows lie `apart` in memory."""
    draw = torch.Generator().manual_seed(seed)
    wide = torch.randn(4, *shape[:-1], shape[-1] + apart, generator=draw, dtype=torch.float64)
    x, residual, grad, grad_sum = (2 * wide[..., : shape[-1]]).to(dtype)
    weight = torch.randn(shape[-1], generator=draw, dtype=torch.float64).to(dtype)
    return x, residual, weight, grad, grad_sum


def _module(x, weight, offset):
    """What transformers computes, in the dtype of x."""
    module = MODULES[offset](x.shape[-1], EPS)
    del module.weight
    module.weight = weight
    return module(x)


def _run(norm, inputs, offset, adds):
    """Outputs, then the gradients of x, of the residual where there is one, and of the weight."""
    x, residual, weight, grad, grad_sum = inputs
    x, residual, weight = (tensor.detach().requires_grad_() for tensor in (x, residual, weight))
    if not adds:
        out = norm(x, weight, offset)
        return [out, *torch.autograd.grad(out, (x, weight), grad)]
    added = x + residual
    out = norm(added, weight, offset)
    return [
        *(out, added),
        *torch.autograd.grad((out, added), (x, residual, weight), (grad, grad_sum)),
    ]


def _exact(inputs, offset, adds):
    return _run(
        lambda x, weight, offset: reference.rms_norm(x, weight, EPS, offset),
        [tensor.double() for tensor in inputs],
        *(offset, adds),
    )


def _ours(inputs, offset, adds):
    x, residual, weight, grad, grad_sum = inputs
    x, residual, weight = (tensor.detach().requires_grad_() for tensor in (x, residual, weight))
    if not adds:
        out = rms_norm(x, weight, EPS, offset)
        return [out, *torch.autograd.grad(out, (x, weight), grad)]
    out = add_rms_norm(x, residual, weight, EPS, offset)
    return [*out, *torch.autograd.grad(out, (x, residual, weight), (grad, grad_sum))]


def _triton(inputs, offset, adds, device):
    from sumzero.kernels.rms_norm_triton import backward, forward

    x, residual, weight, grad, grad_sum = (tensor.to(device) for tensor in inputs)
    out, added, rstd = forward(x, residual if adds else None, weight, EPS, offset)
    kept, grad_sum = (added, grad_sum) if adds else (x, None)
    grad_x, grad_weight = backward(grad, grad_sum, kept, weight, rstd, offset, True)
    return [out, added, grad_x, grad_x, grad_weight] if adds else [out, grad_x, grad_weight]


@pytest.mark.parametrize(("shape", "dtype", "offset"), SHAPES_DTYPES_OFFSETS)
def test_on_cpu_equals_the_modules_of_transformers_to_the_bit(shape, dtype, offset):
    x, residual, weight, _, _ = _inputs(shape, dtype)
    assert torch.equal(rms_norm(x, weight, EPS, offset), _module(x, weight, offset))
    out, added = add_rms_norm(x, residual, weight, EPS, offset)
    assert torch.equal(added, x + residual)
    assert torch.equal(out, _module(added, weight, offset))


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(("shape", "dtype", "offset"), SHAPES_DTYPES_OFFSETS)
def test_gradients_on_cpu_keep_the_rule(shape, dtype, offset, adds, assert_by_the_rule):
    inputs = _inputs(shape, dtype, apart=3)
    plain = _run(_module, inputs, offset, adds)
    found = _ours(inputs, offset, adds)
    assert_by_the_rule(_exact(inputs, offset, adds), plain, found, outputs=1 + adds)


@given(
    rows=st.integers(0, 60),
    heads=st.integers(1, 3),
    size=st.integers(1, 300) | st.sampled_from([64, 128, 256, 1024, 2100]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    offset=st.sampled_from([0.0, 1.0]),
    adds=st.booleans(),
    apart=st.sampled_from([0, 3, 16]),
    seed=st.integers(0, 9),
)
def test_the_kernels_keep_the_rule(
    rows, heads, size, dtype, offset, adds, apart, seed, device, assert_by_the_rule
):
    rows = min(rows, 4096 // size)  # the interpreter is slow
    shape = (rows, heads, size) if heads > 1 else (rows, size)
    inputs = _inputs(shape, dtype, seed, apart)
    plain = _run(_module, inputs, offset, adds)
    found = _triton(inputs, offset, adds, device)
    assert_by_the_rule(_exact(inputs, offset, adds), plain, found, outputs=1 + adds)


def test_the_kernels_take_columns_that_lie_apart(device):
    x, _, weight, grad, _ = _inputs((6, 32), torch.float32)
    inputs = [tensor.t().contiguous().t() for tensor in (x, x, weight, grad, grad)]
    for found, want in zip(
        _triton(inputs, 0.0, True, device),
        _triton([tensor.contiguous() for tensor in inputs], 0.0, True, device),
        strict=True,
    ):
        assert torch.equal(found, want)


def test_no_rows_stay_connected_to_the_graph():
    x, _, weight, _, _ = _inputs((0, 8), torch.float32)
    x.requires_grad_(), weight.requires_grad_()
    out, added = add_rms_norm(x, x, weight, EPS)
    (out.sum() + added.sum()).backward()
    assert x.grad.shape == (0, 8)
    assert torch.equal(weight.grad, torch.zeros(8))


def test_the_backward_pass_reads_the_parameter_itself():
    """ZeRO-3 empties a parameter after the forward pass and gathers it again for the backward."""
    x, _, weight, grad, _ = _inputs((4, 8), torch.float32)
    x.requires_grad_()
    parameter = torch.nn.Parameter(weight.clone())
    out = rms_norm(x, parameter, EPS)
    parameter.data = torch.empty(0)
    parameter.data = weight.clone()
    found = torch.autograd.grad(out, (x, parameter), grad)
    want = _ours(_inputs((4, 8), torch.float32), 0.0, False)[1:]
    for one, other in zip(found, want, strict=True):
        assert torch.equal(one, other)


def test_a_frozen_weight_gets_no_gradient():
    x, _, weight, grad, _ = _inputs((4, 8), torch.float32)
    x.requires_grad_()
    rms_norm(x, weight, EPS).backward(grad)
    want = _ours(_inputs((4, 8), torch.float32), 0.0, False)[1]
    assert torch.equal(x.grad, want)
    assert weight.grad is None


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_op_is_well_formed(dtype, adds, device):
    x, residual, weight, grad, _ = (
        tensor.to(device).requires_grad_() for tensor in _inputs((3, 2, 16), dtype)
    )
    residual = residual if adds else None
    torch.library.opcheck(torch.ops.sumzero.rms_norm.default, (x, residual, weight, EPS, 1.0))
    rstd = torch.rand(6, device=device)
    arguments = [None if tensor is None else tensor.detach() for tensor in (residual, x, weight)]
    torch.library.opcheck(
        torch.ops.sumzero.rms_norm_backward.default,
        (grad.detach(), *arguments, rstd, 0.0, adds),
    )


def test_what_does_not_go_together_is_refused():
    x, residual, weight, _, _ = _inputs((3, 8), torch.float32)
    with pytest.raises(ValueError, match=r"the weight \(7,\) in torch.float32"):
        rms_norm(x, weight[:7], EPS)
    with pytest.raises(ValueError, match=r"the weight \(8,\) in torch.bfloat16"):
        rms_norm(x, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"the residual \(2, 8\)"):
        add_rms_norm(x, residual[:2], weight, EPS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1000, 1024), (333, 16, 128), (100, 4096), (64, 11008)])
def test_on_a_gpu_keeps_the_rule(shape, offset, adds, assert_by_the_rule):
    inputs = [tensor.cuda() for tensor in _inputs(shape, torch.bfloat16)]
    exact = _exact([tensor.cpu() for tensor in inputs], offset, adds)
    found, again = _ours(inputs, offset, adds), _ours(inputs, offset, adds)
    assert_by_the_rule(exact, _run(_module, inputs, offset, adds), found, outputs=1 + adds)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_takes_more_than_two_billion_elements():
    x = torch.zeros(2**19 + 8, 4096, dtype=torch.bfloat16, device="cuda")
    x[-8:] = torch.randn(8, 4096, device="cuda")
    weight = torch.ones(4096, dtype=torch.bfloat16, device="cuda")
    assert torch.equal(rms_norm(x, weight, EPS)[-8:], rms_norm(x[-8:], weight, EPS))
