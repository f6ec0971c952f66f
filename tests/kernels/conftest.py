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
    else is said.
    """

    def check(exact, plain, found, outputs=1, largest=None):
        for index, (want, ordinary, got) in enumerate(zip(exact, plain, found, strict=True)):
            assert got.dtype == ordinary.dtype, index
            assert got.shape == want.shape, index
            if want.numel():
                floor = torch.finfo(got.dtype).eps * (largest or want.abs().max())
                ordinary, got = ordinary.cpu().double(), got.cpu().double()
                bound = (2 if index < outputs else 3) * (ordinary - want).abs().max() + floor
                assert (got - want).abs().max() <= bound, index

    return check
