import pytest
import torch

HEADS, KEY_HEADS, SIZE = 4, 2, 16


def make_inputs(queries, tokens, dtype, size=SIZE, seed=0):
    """q, k and v cut out of wider tensors: what a fused projection hands over is not contiguous."""
    generator = torch.Generator().manual_seed(seed)

    def wide(rows, heads):
        whole = torch.randn(rows, heads + 1, size + 3, generator=generator, dtype=torch.float64)
        return whole[:, 1:, :size]

    kv = wide(tokens, 2 * KEY_HEADS)
    pieces = (wide(queries, HEADS), kv[:, :KEY_HEADS], kv[:, KEY_HEADS:])
    return [x.to(dtype).requires_grad_() for x in pieces]


def run(attend, tensors):
    """The output, and the gradients of q, k and v."""
    out = attend(*tensors)
    gradient = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device)
    return [out, *torch.autograd.grad(out, tensors, gradient.view_as(out))]


def assert_error_is_bounded(plain, packed, tensors, *, gradients=True):
    """At most twice the error of plain attention in the same precision; gradients three times."""
    attempt = run if gradients else lambda attend, tensors: [attend(*tensors)]
    if not gradients:
        tensors = [x.detach() for x in tensors]
    exact = attempt(plain, [x.detach().double().requires_grad_(gradients) for x in tensors])
    low = attempt(plain, tensors)
    found = attempt(packed, tensors)
    # A gradient that is exactly 0 (a segment of length 1) may still carry one rounding.
    largest = max((float(x.detach().abs().max()) for x in exact if x.numel()), default=0.0)
    floor = torch.finfo(tensors[0].dtype).eps * largest
    for name, factor, want, ordinary, got in zip(
        ("out", "dq", "dk", "dv"), (2, 3, 3, 3), exact, low, found, strict=False
    ):
        assert got.shape == want.shape
        if want.numel():
            bound = factor * (ordinary.double() - want).abs().max() + floor
            assert (got.double() - want).abs().max() <= bound, name


@pytest.fixture(scope="session")
def bounded():
    return assert_error_is_bounded


@pytest.fixture(scope="session")
def inputs():
    return make_inputs


@pytest.fixture(scope="session")
def gradients():
    return run
