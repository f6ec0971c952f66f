import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from sumzero.kernels import reference
from sumzero.kernels.swiglu import swiglu

SHAPES = [(5, 24), (1, 1), (2, 3, 1031), (7, 2048), (0, 16)]


def _inputs(shape, dtype, seed=0, apart=0):
    """gate, up and a gradient; the rows lie `apart` in memory."""
    draw = torch.Generator().manual_seed(seed)
    wide = 3 * torch.randn(3, *shape[:-1], shape[-1] + apart, generator=draw)
    return wide[..., : shape[-1]].to(dtype)


def _transformers(gate, up):
    return ACT2FN["silu"](gate) * up


def _run(function, inputs):
    gate, up, grad = inputs
    gate, up = gate.detach().requires_grad_(), up.detach().requires_grad_()
    out = function(gate, up)
    return [out, *torch.autograd.grad(out, (gate, up), grad)]


def _exact(inputs):
    return _run(reference.swiglu, inputs.double())


@pytest.mark.parametrize("apart", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_cpu_equals_transformers_to_the_bit_both_ways(shape, dtype, apart):
    inputs = _inputs(shape, dtype, apart=apart)
    for found, want in zip(_run(swiglu, inputs), _run(_transformers, inputs), strict=True):
        assert torch.equal(found, want)


@given(
    rows=st.integers(0, 4),
    size=st.integers(1, 3000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    apart=st.sampled_from([0, 5, 16]),
    seed=st.integers(0, 9),
)
def test_the_kernels_keep_the_rule(rows, size, dtype, apart, seed, device, assert_by_the_rule):
    from sumzero.kernels.swiglu_triton import backward, forward

    inputs = _inputs((rows, size), dtype, seed, apart)
    gate, up, grad = inputs.to(device)
    found = [forward(gate, up), *backward(grad, gate, up)]
    assert_by_the_rule(_exact(inputs), _run(_transformers, inputs), found)


def test_the_kernels_take_the_halves_of_a_fused_projection(device):
    from sumzero.kernels.swiglu_triton import forward

    both = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)).to(device)
    gate, up = both.chunk(2, -1)
    assert torch.equal(forward(gate, up), forward(gate.contiguous(), up.contiguous()))
    columns = gate.t().contiguous().t()
    assert torch.equal(forward(columns, up), forward(gate, up))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_op_is_well_formed(dtype, device):
    gate, up, grad = (x.to(device).requires_grad_() for x in _inputs((3, 2, 10), dtype))
    torch.library.opcheck(torch.ops.sumzero.swiglu.default, (gate, up))
    arguments = [x.detach() for x in (grad, gate, up)]
    torch.library.opcheck(torch.ops.sumzero.swiglu_backward.default, arguments)


def test_gate_and_up_must_be_alike():
    gate, up, _ = _inputs((3, 8), torch.float32)
    with pytest.raises(ValueError, match=r"up \(3, 7\) in torch.float32"):
        swiglu(gate, up[:, :7])
    with pytest.raises(ValueError, match=r"up \(3, 8\) in torch.bfloat16"):
        swiglu(gate, up.bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [*SHAPES, (1000, 3072), (77, 11008)], ids=str)
def test_on_a_gpu_keeps_the_rule(shape, assert_by_the_rule):
    inputs = _inputs(shape, torch.bfloat16)
    found = _run(swiglu, inputs.cuda())
    assert_by_the_rule(_exact(inputs), _run(_transformers, inputs), found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_takes_more_than_two_billion_elements():
    gate = torch.zeros(2**18 + 8, 8200, dtype=torch.bfloat16, device="cuda")
    gate[-8:] = torch.randn(8, 8200, device="cuda")
    assert torch.equal(swiglu(gate, gate)[-8:], swiglu(gate[-8:], gate[-8:]))
