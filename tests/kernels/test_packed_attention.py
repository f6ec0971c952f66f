import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sumzero.kernels import reference
from sumzero.kernels.packed_attention import BACKENDS, packed_attention
from sumzero.kernels.segments import Backends, Segments

from .attention_cases import CASES, SIZE, both, families, inputs_of, run

OPTIONS = pytest.mark.parametrize(
    "options",
    [{}, {"window": 6}, {"softcap": 1.5}, {"softcap": 1.5, "window": 6}],
    ids=["causal", "window", "softcap", "both"],
)
ROWS = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _by_the_rule(check, plain, packed, inputs):
    exact = run(plain, [x.detach().double().requires_grad_() for x in inputs])
    largest = max(float(x.detach().abs().max()) for x in exact if x.numel())
    check(exact, run(plain, inputs), run(packed, inputs), largest=largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@OPTIONS
@ROWS
def test_error_is_at_most_that_of_plain_attention_in_the_same_precision(
    case, options, dtype, assert_by_the_rule
):
    inputs = inputs_of(case[0], case[2], dtype)
    _by_the_rule(assert_by_the_rule, *both(case, **options), inputs)


@pytest.mark.parametrize("size", [64, 80, 128, 256])
def test_every_head_size_keeps_the_rule(size, assert_by_the_rule):
    case = CASES["families among documents"]
    inputs = inputs_of(case[0], case[2], torch.bfloat16, size=size)
    _by_the_rule(assert_by_the_rule, *both(case, scale=size**-0.5), inputs)


def _assert_equals_the_reference(case, seed=0, **options):
    plain, packed = both(case, **options)
    inputs = inputs_of(case[0], case[2], torch.float64, seed=seed)
    for want, found in zip(run(plain, inputs), run(packed, inputs), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@OPTIONS
@ROWS
def test_equals_the_reference_in_float64(case, options):
    _assert_equals_the_reference(case, scale=0.3, **options)


@given(
    families(),
    st.none() | st.integers(1, 30),
    st.none() | st.floats(0.1, 9),
    st.integers(0, 9),
)
def test_any_families_equal_the_reference(case, window, softcap, seed):
    _assert_equals_the_reference(case, seed, window=window, softcap=softcap)


@given(families(), st.none() | st.integers(1, 30))
def test_a_branch_equals_its_prefix_and_itself_as_one_document(case, window):
    lengths, prefix_of, _ = case
    inputs = [x.detach() for x in inputs_of(lengths, lengths, torch.float64)]
    _, packed = both((lengths, prefix_of, lengths), window=window)
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


@given(families(), st.none() | st.integers(1, 30))
def test_last_queries_have_the_rows_of_all_queries(case, window):
    lengths, prefix_of, queries = case
    q, k, v = (x.detach() for x in inputs_of(lengths, lengths, torch.float64))
    _, whole = both((lengths, prefix_of, lengths), window=window)
    _, trimmed = both(case, window=window)
    rows = [torch.arange(n) >= n - count for n, count in zip(lengths, queries, strict=True)]
    asks = torch.cat(rows)
    torch.testing.assert_close(trimmed(q[asks], k, v), whole(q, k, v)[asks], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@OPTIONS
@pytest.mark.parametrize("case", [x for x in CASES.values() if sum(x[2])], ids=lambda x: str(x[0]))
def test_flex_sees_what_the_reference_sees(options, case):
    """Forward only: on CPU FlexAttention has no backward."""
    inputs = [x.detach() for x in inputs_of(case[0], case[2], torch.float64)]
    plain, flex = both(case, "flex", **options)
    torch.testing.assert_close(flex(*inputs), plain(*inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize(
    ("changed", "same"),
    [(0, [1, 2, 3, 4, 5]), (2, [0, 1, 3, 4, 5]), (3, [0, 1, 2, 4, 5]), (1, [0, 4, 5])],
    ids=["document", "branch", "its sibling", "prefix"],
)
def test_what_a_segment_does_not_see_changes_no_bit_of_it(changed, same, window, dtype):
    lengths, prefix_of = [5, 9, 4, 6, 3, 2], [-1, -1, 1, 1, -1, -1]
    inputs = [x.detach() for x in inputs_of(lengths, lengths, dtype)]
    _, packed = both((lengths, prefix_of, lengths), window=window)
    before = packed(*inputs).split(lengths)
    for x in inputs:
        x.split(lengths)[changed].fill_(100.0)
    after = packed(*inputs).split(lengths)
    for segment in same:
        assert torch.equal(before[segment], after[segment])
    assert not torch.equal(before[changed], after[changed])
    if changed == 1:
        assert not torch.equal(before[2], after[2])


def test_segments_must_cover_queries_and_tokens():
    inputs = inputs_of([4, 4], [4, 4], torch.float32)
    segments = Segments.of([4, 3], "cpu", Backends("sdpa", "sdpa"), queries=[1, 3])
    with pytest.raises(ValueError, match="cover 4 queries and 7 tokens, the batch has 8 and 8"):
        packed_attention(*inputs, segments, scale=1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@OPTIONS
@pytest.mark.parametrize("backend", BACKENDS)
def test_error_on_a_gpu_is_at_most_that_of_plain_attention(backend, options, assert_by_the_rule):
    if backend == "flash":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    if backend == "varlen" and "softcap" in options:
        pytest.skip("varlen has no soft-capped scores, and is refused for them")
    for case in CASES.values():
        for size in (64, 128, 256):
            inputs = inputs_of(case[0], case[2], torch.bfloat16, size=size)
            plain, packed = both(case, backend, "cuda", scale=size**-0.5, **options)
            _by_the_rule(assert_by_the_rule, plain, packed, inputs)
