"""Triton kernels run on the CUDA device where there is one, else in Triton's interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, by the first kernel used


@pytest.fixture(scope="session")
def device():
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
