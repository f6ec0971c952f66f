import pytest
import torch

from sumzero.errors import ConfigError
from sumzero.kernels import reference
from sumzero.kernels.packed_attention import Segments, choose_backend, packed_attention

HEADS, KEY_HEADS, SIZE = 4, 2, 16
CASES = {
    "one": [61],
    "length one": [1, 1, 1],
    "odd": [3, 17, 1, 40, 5],
    "equal": [8, 8, 8],
}


def _inputs(lengths, dtype, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    # A wider tensor, sliced: what a fused projection hands over is not contiguous.
    wide = torch.randn(
        tokens, HEADS + 2 * KEY_HEADS, size + 3, generator=generator, dtype=torch.float64
    )
    q, k, v = wide[..., :size].split([HEADS, KEY_HEADS, KEY_HEADS], dim=1)
    return [x.to(dtype).requires_grad_() for x in (q, k, v)]


def _run(attend, inputs):
    out = attend(*inputs)
    gradient = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad(out, inputs, gradient)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_error_is_at_most_that_of_plain_attention_in_the_same_precision(lengths, window, dtype):
    scale = SIZE**-0.5

    def plain(q, k, v):
        return reference.packed_attention(q, k, v, lengths, scale=scale, window=window)

    def packed(q, k, v):
        segments = Segments.of(lengths, q.device, "sdpa")
        return packed_attention(q, k, v, segments, scale=scale, window=window)

    inputs = _inputs(lengths, dtype)
    exact = _run(plain, [x.detach().double().requires_grad_() for x in inputs])
    low = _run(plain, inputs)
    found = _run(packed, inputs)
    # A gradient that is exactly 0 (a segment of length 1) may still carry one rounding.
    floor = torch.finfo(dtype).eps * max(float(x.detach().abs().max()) for x in exact)
    for name, factor, want, ordinary, got in zip(
        ("out", "dq", "dk", "dv"), (2, 3, 3, 3), exact, low, found, strict=True
    ):
        bound = factor * (ordinary.double() - want).abs().max() + floor
        assert (got.double() - want).abs().max() <= bound, name


def test_equals_the_reference_in_float64():
    lengths = [3, 17, 1, 40, 5]
    inputs = _inputs(lengths, torch.float64)
    segments = Segments.of(lengths, "cpu", "sdpa")
    found = packed_attention(*inputs, segments, scale=0.3)
    want = reference.packed_attention(*inputs, lengths, scale=0.3)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_another_document_changes_nothing():
    lengths = [5, 9]
    q, k, v = (x.detach() for x in _inputs(lengths, torch.float32))
    segments = Segments.of(lengths, "cpu", "sdpa")
    before = packed_attention(q, k, v, segments, scale=1.0)
    for x in (q, k, v):
        x[:5] = 100.0
    after = packed_attention(q, k, v, segments, scale=1.0)
    assert torch.equal(before[5:], after[5:])
    assert not torch.equal(before[:5], after[:5])


def test_segments_must_cover_the_tokens():
    inputs = _inputs([4, 4], torch.float32)
    with pytest.raises(ValueError, match="cover 7 tokens, the batch has 8"):
        packed_attention(*inputs, Segments.of([4, 3], "cpu", "sdpa"), scale=1.0)
    with pytest.raises(ValueError, match="positive"):
        Segments.of([4, 0], "cpu", "sdpa")


def test_a_back_end_that_cannot_run_is_refused_with_what_would():
    cpu = torch.device("cpu")
    assert choose_backend(cpu, torch.float32) == "sdpa"
    with pytest.raises(ConfigError, match=r"runs on CUDA.*use auto or sdpa"):
        choose_backend(cpu, torch.bfloat16, "flash")
    with pytest.raises(ConfigError, match="float16 and bfloat16"):
        choose_backend(torch.device("cuda"), torch.float32, "flash")
    with pytest.raises(ConfigError, match="none of auto, flash, sdpa"):
        choose_backend(cpu, torch.float32, "fast")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_flash_error_is_at_most_that_of_plain_attention():
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    lengths = [33, 1, 200]
    inputs = [x.detach().cuda() for x in _inputs(lengths, torch.bfloat16, size=64)]
    host = [x.cpu() for x in inputs]
    exact = reference.packed_attention(*(x.double() for x in host), lengths, scale=0.125)
    low = reference.packed_attention(*host, lengths, scale=0.125)
    segments = Segments.of(lengths, "cuda", "flash")
    found = packed_attention(*inputs, segments, scale=0.125).cpu()
    assert (found - exact).abs().max() <= 2 * (low - exact).abs().max()
