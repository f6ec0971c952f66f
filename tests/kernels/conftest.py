"""Where Triton kernels run in tests, and the rule that their errors keep."""

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    """The CUDA device where there is one; else CPU, where Triton's interpreter runs the kernels."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def assert_by_the_rule():
    """Errors against float64 are at most twice those of the plain computation, gradients' thrice.

    Each argument is a list, the outputs first; `outputs` says how many they are. What is exactly 0
    may still carry one rounding of what it is the sum of: of its own `largest` element, if nothing
    else is said. Of a few elements the plain errors are chance, and no measure: each may then carry
    a rounding of an exponential, a sum, a quotient and a product.
    """

    def check(exact, plain, found, outputs=1, largest=None):
        for index, (want, ordinary, got) in enumerate(zip(exact, plain, found, strict=True)):
            assert got.dtype == ordinary.dtype, index
            assert got.shape == want.shape, index
            if want.numel():
                roundings = 1 if want.numel() >= 16 else 4
                floor = roundings * torch.finfo(got.dtype).eps * (largest or want.abs().max())
                ordinary, got = ordinary.cpu().double(), got.cpu().double()
                bound = (2 if index < outputs else 3) * (ordinary - want).abs().max() + floor
                assert (got - want).abs().max() <= bound, index

    return check


HEADS, KEY_HEADS, SIZE = 4, 2, 16  # of attention, unless a test says otherwise


def _inputs(queries, tokens, dtype, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def wide(rows, heads):
        whole = torch.randn(rows, heads + 1, size + 3, generator=generator, dtype=torch.float64)
        return whole[:, 1:, :size]

    kv = wide(tokens, 2 * KEY_HEADS)
    pieces = (wide(queries, HEADS), kv[:, :KEY_HEADS], kv[:, KEY_HEADS:])
    return [x.to(dtype).requires_grad_() for x in pieces]


@pytest.fixture(scope="session")
def inputs():
    """q, k and v cut out of wider tensors: what a fused projection hands over is not contiguous."""
    return _inputs


def _run(attend, tensors):
    out = attend(*tensors)
    gradient = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device)
    return [out, *torch.autograd.grad(out, tensors, gradient.view_as(out))]


@pytest.fixture(scope="session")
def gradients():
    """The output of attention, and the gradients of q, k and v."""
    return _run


@pytest.fixture(scope="session")
def bounded(assert_by_the_rule):
    """The rule for attention, given as the reference, a back end, and q, k and v."""

    def check(plain, packed, tensors, *, gradients=True):
        attempt = _run if gradients else lambda attend, tensors: [attend(*tensors)]
        if not gradients:
            tensors = [x.detach() for x in tensors]
        exact = attempt(plain, [x.detach().double().requires_grad_(gradients) for x in tensors])
        # The gradient of a segment of length 1 is exactly 0, by way of others that are not.
        largest = max((float(x.detach().abs().max()) for x in exact if x.numel()), default=0.0)
        assert_by_the_rule(
            exact, attempt(plain, tensors), attempt(packed, tensors), largest=largest
        )

    return check
