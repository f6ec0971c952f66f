import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from sumzero.kernels import reference
from sumzero.kernels.rope import rope, rotate

# Tokens, query heads, key heads, head size, rotary size.
SHAPES = [
    (5, 4, 2, 64, 64),
    (1, 1, 1, 128, 128),
    (7, 3, 1, 80, 32),
    (3, 14, 2, 64, 64),
    (4, 5, 5, 256, 256),
    (6, 2, 1, 96, 48),
    (0, 4, 2, 64, 64),
]


def _inputs(shape, dtype, seed=0, apart=0):
    """q, k, cos, sin and gradients of both outputs; heads lie `apart` in memory."""
    tokens, heads, key_heads, size, rotary = shape
    draw = torch.Generator().manual_seed(seed)
    wide = torch.randn(2, tokens, heads + key_heads, size + apart, generator=draw).to(dtype)
    (q, k), (grad_q, grad_k) = (x[..., :size].split([heads, key_heads], dim=1) for x in wide)
    angle = 100 * torch.rand(tokens, rotary // 2, generator=draw)
    angle = torch.cat((angle, angle), -1)
    return q, k, angle.cos().to(dtype), angle.sin().to(dtype), grad_q, grad_k


def _transformers(q, k, cos, sin):
    """As models with partial rotary embeddings call it, among them Phi."""
    rotary = cos.shape[1]
    turned = apply_rotary_pos_emb(
        *(x[None, ..., :rotary].transpose(1, 2) for x in (q, k)), cos[None], sin[None]
    )
    return tuple(
        torch.cat((new.transpose(1, 2).squeeze(0), x[..., rotary:]), -1)
        for new, x in zip(turned, (q, k), strict=True)
    )


def _run(function, inputs):
    """Outputs, then the gradients of q and k."""
    q, k, cos, sin, *grads = inputs
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    out = function(q, k, cos, sin)
    return [*out, *torch.autograd.grad(out, (q, k), grads)]


def _exact(inputs):
    return _run(
        lambda q, k, cos, sin: (
            reference.rotate(q, cos, sin),
            reference.rotate(k, cos, sin),
        ),
        [x.double() for x in inputs],
    )


@pytest.mark.parametrize("apart", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_cpu_equals_transformers_to_the_bit_both_ways(shape, dtype, apart):
    inputs = _inputs(shape, dtype, apart=apart)
    for found, want in zip(_run(rope, inputs), _run(_transformers, inputs), strict=True):
        assert torch.equal(found, want)


@given(
    tokens=st.integers(0, 4),
    heads=st.integers(1, 20),
    key_heads=st.integers(0, 5),
    size=st.integers(32, 128).map(lambda half: 2 * half),
    rotary=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    apart=st.sampled_from([0, 5, 16]),
    seed=st.integers(0, 9),
)
def test_the_kernel_keeps_the_rule(
    tokens, heads, key_heads, size, rotary, dtype, apart, seed, device, assert_by_the_rule
):
    from sumzero.kernels.rope_triton import turn

    shape = (tokens, heads, key_heads, size, max(2, int(rotary * size) // 2 * 2))
    inputs = _inputs(shape, dtype, seed, apart)
    q, k, cos, sin, grad_q, grad_k = (x.to(device) for x in inputs)
    found = [*turn(q, k, cos, sin, False), *turn(grad_q, grad_k, cos, sin, True)]
    assert_by_the_rule(_exact(inputs), _run(_transformers, inputs), found, outputs=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queries_at_some_positions_are_those_of_all(dtype, device):
    q, k, cos, sin, _, _ = (x.to(device) for x in _inputs((9, 4, 2, 64, 32), dtype))
    some = torch.tensor([1, 4, 8], device=device)
    assert torch.equal(rotate(q[some], cos[some], sin[some]), rope(q, k, cos, sin)[0][some])


def test_the_backward_pass_undoes_the_forward_pass():
    inputs = _inputs((9, 4, 2, 64, 64), torch.float64)
    q, k, cos, sin, _, _ = inputs
    out = _run(lambda *x: rope(*x), (*inputs[:4], *rope(q, k, cos, sin)))
    torch.testing.assert_close(out[2:], [q, k], rtol=1e-6, atol=1e-6)  # the angles are float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_op_is_well_formed(dtype, device):
    q, k, cos, sin, _, _ = (x.to(device) for x in _inputs((5, 3, 1, 64, 32), dtype))
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    torch.library.opcheck(torch.ops.sumzero.rope.default, (q, k, cos, sin, False))


@pytest.mark.parametrize(
    "changed",
    [{0: (4, 4, 64)}, {1: (5, 2, 32)}, {2: (5, 66), 3: (5, 66)}, {3: (5, 32)}, {2: (5, 1)}],
    ids=["tokens", "head size", "rotary size", "cos and sin", "odd"],
)
def test_shapes_that_do_not_go_together_are_refused(changed):
    inputs = list(_inputs((5, 4, 2, 64, 64), torch.float32)[:4])
    for index, shape in changed.items():
        inputs[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match="do not go together"):
        rope(*inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [*SHAPES, (4099, 32, 8, 128, 128)], ids=str)
def test_on_a_gpu_keeps_the_rule(shape, assert_by_the_rule):
    inputs = _inputs(shape, torch.bfloat16)
    found = _run(rope, [x.cuda() for x in inputs])
    assert_by_the_rule(_exact(inputs), _run(_transformers, inputs), found, outputs=2)
