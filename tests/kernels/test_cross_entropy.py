import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.kernels import cross_entropy, reference

triton = pytest.importorskip("triton", reason="triton is not installed")
from sumzero.kernels import cross_entropy_triton  # noqa: E402

# The kernel runs interpreted where there is no GPU (tests/conftest.py).
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BLOCK = 16


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    """Rows of several blocks in Triton; 3 rows of 50 float32 at a time in plain torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy_triton, "_LARGEST_BLOCK", BLOCK)
        patch.setattr(cross_entropy, "_BYTES_AT_A_TIME", 3 * 4 * 50)
        yield


def _plain(logits, labels, weights, scale=1.0, softcap=None, gradient=True):
    losses = cross_entropy.cross_entropy_tile(
        logits, labels, weights, scale=scale, softcap=softcap, gradient=gradient
    )
    return losses, logits


def _triton(logits, labels, weights, scale=1.0, softcap=None, gradient=True):
    # Rows that are a part of longer ones; what lies beside them must stay.
    wide = torch.full((len(logits), logits.shape[1] + 5), 77.0, dtype=logits.dtype, device=DEVICE)
    wide[:, : logits.shape[1]] = logits
    part = wide[:, : logits.shape[1]]
    losses = cross_entropy_triton.launch(
        part, labels.to(DEVICE), weights.to(DEVICE), scale, softcap, gradient
    )
    assert (wide[:, logits.shape[1] :] == 77).all()
    return losses.cpu(), part.cpu()


TILES = pytest.mark.parametrize("tile", [_plain, _triton])
HEADS = {"plain": {}, "softcap": {"softcap": 3.0}, "both": {"scale": 0.3, "softcap": 3.0}}
WIDTHS = [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 50]


def _reference(logits, labels, weights, **head):
    """Losses and gradients: the head's weight is the identity."""
    logits = logits.detach().clone().requires_grad_()
    identity = torch.eye(logits.shape[1], dtype=logits.dtype)
    weights = weights.to(torch.promote_types(logits.dtype, torch.float32)).requires_grad_()
    loss = reference.linear_cross_entropy(logits, identity, labels, weights, **head)
    by_row, gradient = torch.autograd.grad(loss, [weights, logits])
    return weights.detach() * by_row, gradient


def _inputs(num_rows, columns, dtype, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(num_rows, columns, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1.0, 0.0, 0.3])[torch.arange(num_rows) % 3]
    labels = torch.randint(columns, (num_rows,), generator=generator)
    return logits.to(dtype), labels, weights


@TILES
@settings(max_examples=30)  # the interpreter is slow
@given(
    num_rows=st.integers(0, 5),
    columns=st.sampled_from(WIDTHS),
    seed=st.integers(0, 9),
    head=st.sampled_from(list(HEADS.values())),
)
def test_any_shape_equals_the_reference_in_float64(tile, num_rows, columns, seed, head):
    logits, labels, weights = _inputs(num_rows, columns, torch.float64, seed)
    want = _reference(logits, labels, weights, **head)
    found = tile(logits.clone(), labels, weights, **head)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    losses, _ = tile(logits, labels, weights, **head, gradient=False)
    torch.testing.assert_close(losses, want[0], rtol=1e-12, atol=1e-12)


@TILES
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_every_label_of_a_row_is_found(tile, head):
    columns = 2 * BLOCK + 1
    labels, weights = torch.arange(columns), torch.ones(columns)
    logits = torch.linspace(-4, 4, columns, dtype=torch.float64).repeat(columns, 1)
    want = _reference(logits, labels, weights, **head)
    torch.testing.assert_close(tile(logits, labels, weights, **head), want, rtol=1e-12, atol=1e-12)


@TILES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_error_is_at_most_that_of_the_plain_loss_in_the_same_precision(tile, head, dtype):
    logits, labels, weights = _inputs(30, 50, dtype)
    exact = _reference(logits.double(), labels, weights, **head)
    plain = _reference(logits, labels, weights, **head)
    found = tile(logits, labels, weights, **head)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == dtype
    for factor, x, ordinary, want in zip((2, 3), found, plain, exact, strict=True):
        bound = factor * (ordinary.double() - want).abs().max()
        assert (x.double() - want).abs().max() <= bound


@TILES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_overflow_nowhere(tile, dtype):
    logits = torch.zeros(3, 50, dtype=dtype)
    logits[0, 20], logits[1, 20], logits[2] = 6e4, -6e4, 6e4
    labels = torch.tensor([20, 20, 20])
    want = _reference(logits.double(), labels, torch.ones(3))
    losses, gradient = tile(logits, labels, torch.ones(3))
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(losses.double(), want[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), want[1], rtol=rounding, atol=rounding)


def test_a_label_outside_the_vocabulary_is_no_number_in_triton_and_an_error_in_torch():
    logits, _, weights = _inputs(3, 50, torch.float32)
    losses, _ = _triton(logits, torch.tensor([4, 50, -1]), weights + 1)
    assert losses.isnan().tolist() == [False, True, True]
    with pytest.raises(RuntimeError, match="out of bounds"):
        _plain(logits, torch.tensor([4, 50, -1]), weights)


def test_rows_may_lie_more_than_two_to_the_31_elements_apart():
    """Few pages of the tensor's 4 GiB are ever touched on a CPU."""
    stride = 2**30
    memory = torch.empty(2 * stride + 50, dtype=torch.bfloat16, device=DEVICE)
    logits = memory.as_strided((3, 50), (stride, 1))
    values, labels, weights = _inputs(3, 50, torch.bfloat16)
    logits.copy_(values)
    losses = cross_entropy_triton.launch(
        logits, labels.to(DEVICE), weights.to(DEVICE), 1.0, None, True
    )
    want = _plain(values, labels, weights)
    torch.testing.assert_close((losses.cpu(), logits.cpu()), want, rtol=1e-2, atol=1e-6)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sumzero.kernels.cross_entropy_triton import _cross_entropy

for dtype, wide, softcap in (("bf16", "fp32", 0.0), ("fp16", "fp32", 30.0), ("fp64", "fp64", 30.0)):
    types = {
        "logits_ptr": "*" + dtype, "labels_ptr": "*i64", "weights_ptr": "*" + wide,
        "losses_ptr": "*" + wide, "row_stride": "i64", "num_columns": "i32",
    }
    constants = {"SCALE": 0.5, "SOFTCAP": softcap, "GRADIENT": True, "BLOCK": 1024}
    source = ASTSource(
        _cross_entropy, types | dict.fromkeys(constants, "constexpr"), constexprs=constants
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert ".entry _cross_entropy" in compiled.asm["ptx"]
"""


def test_the_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path):
    """The interpreter runs Python that the compiler does not take; so a process without it."""
    changes = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=os.environ | changes, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
