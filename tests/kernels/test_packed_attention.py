import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sumzero.errors import ConfigError
from sumzero.kernels import reference
from sumzero.kernels.packed_attention import (
    Segments,
    choose_backend,
    gathered_keys,
    packed_attention,
)

HEADS, KEY_HEADS, SIZE = 4, 2, 16
CASES = {  # lengths, prefix_of
    "one": ([61], [-1]),
    "length one": ([1, 1, 1], [-1, -1, -1]),
    "odd": ([3, 17, 1, 40, 5], [-1] * 5),
    "equal": ([8, 8, 8], [-1] * 3),
    "a family of unequal branches": ([13, 4, 9, 1], [-1, 0, 0, 0]),
    "a lone branch": ([13, 4], [-1, 0]),
    "prefix and branches of length one": ([1, 1, 1], [-1, 0, 0]),
    "families among documents": ([5, 9, 3, 2, 7, 4, 6, 8], [-1, -1, 1, 1, -1, -1, 5, 5]),
    "branches too long for one call": ([30, 200, 100, 20], [-1, 0, 0, 0]),
    "many branches": ([24] + [30] * 32, [-1] + [0] * 32),
    "a prefix apart from its branch": ([7, 5, 3], [-1, -1, 0]),
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


def _both(lengths, prefix_of, window=None, scale=SIZE**-0.5):
    """The reference and the sdpa back end, as functions of q, k and v."""
    segments = Segments.of(lengths, "cpu", "sdpa", prefix_of)
    return (
        lambda q, k, v: reference.packed_attention(
            *(q, k, v, lengths), scale=scale, window=window, prefix_of=prefix_of
        ),
        lambda q, k, v: packed_attention(q, k, v, segments, scale=scale, window=window),
    )


def _assert_error_is_at_most_that_of_plain_attention(plain, packed, inputs):
    exact = _run(plain, [x.detach().double().requires_grad_() for x in inputs])
    low = _run(plain, inputs)
    found = _run(packed, inputs)
    # A gradient that is exactly 0 (a segment of length 1) may still carry one rounding.
    floor = torch.finfo(inputs[0].dtype).eps * max(float(x.detach().abs().max()) for x in exact)
    for name, factor, want, ordinary, got in zip(
        ("out", "dq", "dk", "dv"), (2, 3, 3, 3), exact, low, found, strict=True
    ):
        bound = factor * (ordinary.double() - want).abs().max() + floor
        assert (got.double() - want).abs().max() <= bound, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize(("lengths", "prefix_of"), CASES.values(), ids=CASES)
def test_error_is_at_most_that_of_plain_attention_in_the_same_precision(
    lengths, prefix_of, window, dtype
):
    plain, packed = _both(lengths, prefix_of, window)
    _assert_error_is_at_most_that_of_plain_attention(plain, packed, _inputs(lengths, dtype))


def _assert_equals_the_reference(lengths, prefix_of, window, seed=0):
    plain, packed = _both(lengths, prefix_of, window, scale=0.3)
    inputs = _inputs(lengths, torch.float64, seed=seed)
    for want, found in zip(_run(plain, inputs), _run(packed, inputs), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 6])
@pytest.mark.parametrize(("lengths", "prefix_of"), CASES.values(), ids=CASES)
def test_equals_the_reference_in_float64(lengths, prefix_of, window):
    _assert_equals_the_reference(lengths, prefix_of, window)


LENGTHS = st.integers(1, 20)
FAMILIES = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, max_size=4)), min_size=1, max_size=4)


def _laid_out(families):
    lengths, prefix_of = [], []
    for prefix, branches in families:
        prefix_of += [-1] + [len(lengths)] * len(branches)
        lengths += [prefix, *branches]
    return lengths, prefix_of


@given(FAMILIES, st.none() | st.integers(1, 30), st.integers(0, 9))
def test_any_families_equal_the_reference(families, window, seed):
    _assert_equals_the_reference(*_laid_out(families), window, seed)


@given(FAMILIES, st.none() | st.integers(1, 30))
def test_a_branch_equals_its_prefix_and_itself_as_one_document(families, window):
    lengths, prefix_of = _laid_out(families)
    inputs = [x.detach() for x in _inputs(lengths, torch.float64)]
    _, packed = _both(lengths, prefix_of, window)
    shared = packed(*inputs).split(lengths)
    pieces = [x.split(lengths) for x in inputs]
    for branch, prefix in enumerate(prefix_of):
        seen = [branch] if prefix < 0 else [prefix, branch]
        alone = reference.packed_attention(
            *(torch.cat([piece[segment] for segment in seen]) for piece in pieces),
            [sum(lengths[segment] for segment in seen)],
            scale=SIZE**-0.5,
            window=window,
        )
        want = alone[-lengths[branch] :]
        torch.testing.assert_close(shared[branch], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [None, 6])
@given(FAMILIES.map(_laid_out))
def test_keys_gathered_for_flash_are_those_of_the_reference(window, layout):
    """Flash itself needs CUDA: causal attention aligned at the end, over the keys it is handed."""
    lengths, prefix_of = layout
    q, k, v = (x.detach() for x in _inputs(lengths, torch.float64))
    segments = Segments.of(lengths, "cpu", "flash", prefix_of)
    index = torch.arange(sum(lengths)) if segments.key_index is None else segments.key_index
    assert segments.longest_keys == segments.key_offsets.diff().max()
    found = []
    for queries, keys in zip(
        segments.offsets.unfold(0, 2, 1), segments.key_offsets.unfold(0, 2, 1), strict=True
    ):
        seen, own = index[keys[0] : keys[1]], q[queries[0] : queries[1]]
        padded = torch.cat([own.new_zeros(len(seen) - len(own), HEADS, SIZE), own])
        out = reference.packed_attention(
            padded, k[seen], v[seen], [len(seen)], scale=0.3, window=window
        )
        found.append(out[-len(own) :])
    want = reference.packed_attention(
        q, k, v, lengths, scale=0.3, window=window, prefix_of=prefix_of
    )
    torch.testing.assert_close(torch.cat(found), want, rtol=1e-12, atol=1e-12)


def test_keys_are_gathered_prefix_first():
    index, lengths = gathered_keys([2, 3, 1, 2], [-1, 0, -1, 0])
    assert lengths == [2, 5, 1, 4]
    assert index.tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 0, 1, 6, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize(
    ("changed", "same"),
    [(0, [1, 2, 3, 4, 5]), (2, [0, 1, 3, 4, 5]), (3, [0, 1, 2, 4, 5]), (1, [0, 4, 5])],
    ids=["document", "branch", "its sibling", "prefix"],
)
def test_what_a_segment_does_not_see_changes_no_bit_of_it(changed, same, window, dtype):
    lengths, prefix_of = [5, 9, 4, 6, 3, 2], [-1, -1, 1, 1, -1, -1]
    inputs = [x.detach() for x in _inputs(lengths, dtype)]
    _, packed = _both(lengths, prefix_of, window)
    before = packed(*inputs).split(lengths)
    for x in inputs:
        x.split(lengths)[changed].fill_(100.0)
    after = packed(*inputs).split(lengths)
    for segment in same:
        assert torch.equal(before[segment], after[segment])
    assert not torch.equal(before[changed], after[changed])
    if changed == 1:
        assert not torch.equal(before[2], after[2])


def test_segments_must_cover_the_tokens():
    inputs = _inputs([4, 4], torch.float32)
    with pytest.raises(ValueError, match="cover 7 tokens, the batch has 8"):
        packed_attention(*inputs, Segments.of([4, 3], "cpu", "sdpa"), scale=1.0)
    with pytest.raises(ValueError, match="positive"):
        Segments.of([4, 0], "cpu", "sdpa")


@pytest.mark.parametrize(
    ("prefix_of", "problem"),
    [
        ([-1, -1], "3 segments, but 2 entries"),
        ([-1, 2, -1], "segment 1: its prefix 2 is no earlier segment"),
        ([0, -1, -1], "segment 0: its prefix 0 is no earlier segment"),
        ([-1, -2, -1], "segment 1: its prefix -2 is no earlier segment"),
        ([-1, 0, 1], "segment 2: its prefix 1 has a prefix itself"),
    ],
)
def test_a_prefix_must_be_an_earlier_segment_without_one(prefix_of, problem):
    with pytest.raises(ValueError, match=problem):
        Segments.of([4, 3, 2], "cpu", "sdpa", prefix_of)


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
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("backend", ["flash", "sdpa"])
def test_error_on_a_gpu_is_at_most_that_of_plain_attention(backend, window):
    if backend == "flash":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    lengths, prefix_of = [33, 1, 200, 64, 7], [-1, -1, -1, 2, 2]
    plain, _ = _both(lengths, prefix_of, window, scale=0.125)
    segments = Segments.of(lengths, "cuda", backend, prefix_of)

    def packed(q, k, v):
        on_gpu = (x.cuda() for x in (q, k, v))
        return packed_attention(*on_gpu, segments, scale=0.125, window=window).cpu()

    inputs = _inputs(lengths, torch.bfloat16, size=64)
    _assert_error_is_at_most_that_of_plain_attention(plain, packed, inputs)
