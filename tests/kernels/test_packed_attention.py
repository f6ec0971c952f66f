import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sumzero.errors import ConfigError
from sumzero.kernels import reference
from sumzero.kernels.packed_attention import choose_backends, packed_attention
from sumzero.kernels.segments import Backends, Segments

SDPA = Backends("sdpa", "sdpa")
CASES = {  # lengths, prefix_of, queries (None: all)
    "one": ([61], None, None),
    "length one": ([1, 1, 1], None, None),
    "an empty bin": ([1], None, [0]),
    "odd": ([3, 17, 1, 40, 5], None, None),
    "odd, few queries": ([3, 17, 1, 40, 5], None, [0, 4, 1, 13, 0]),
    "equal": ([8, 8, 8], None, None),
    "longer than a tile": ([300, 140], None, None),
    "longer than a tile, few queries": ([300, 140], None, [150, 3]),
    "a family of unequal branches": ([13, 4, 9, 1], [-1, 0, 0, 0], None),
    "a family, few queries": ([13, 4, 9, 1], [-1, 0, 0, 0], [1, 0, 5, 1]),
    "a family, no queries of the prefix": ([13, 4, 9, 1], [-1, 0, 0, 0], [0, 4, 2, 1]),
    "a lone branch": ([13, 4], [-1, 0], None),
    "prefix and branches of length one": ([1, 1, 1], [-1, 0, 0], None),
    "families among documents": ([5, 9, 3, 2, 7, 4, 6, 8], [-1, -1, 1, 1, -1, -1, 5, 5], None),
    "branches longer than a tile": ([30, 200, 100, 20], [-1, 0, 0, 0], None),
    "many branches": ([24] + [30] * 32, [-1] + [0] * 32, None),
    "a prefix apart from its branch": ([7, 5, 3], [-1, -1, 0], None),
}
EVERY_CASE = pytest.mark.parametrize(("lengths", "prefix_of", "queries"), CASES.values(), ids=CASES)


def _both(lengths, prefix_of, queries, backends=SDPA, device="cpu", **options):
    """The reference and a back end, as functions of q, k and v."""
    segments = Segments.of(lengths, device, backends, prefix_of, queries)

    def packed(q, k, v):
        on_device = (x.to(device) for x in (q, k, v))
        return packed_attention(*on_device, segments, **options).to(q.device)

    def plain(q, k, v):
        return reference.packed_attention(
            *(q, k, v, lengths), prefix_of=prefix_of, queries=queries, **options
        )

    return plain, packed


def _num_queries(lengths, queries):
    return sum(lengths if queries is None else queries)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 6])
@EVERY_CASE
def test_error_is_at_most_that_of_plain_attention_in_the_same_precision(
    lengths, prefix_of, queries, window, softcap, dtype, bounded, inputs
):
    plain, packed = _both(lengths, prefix_of, queries, scale=0.25, window=window, softcap=softcap)
    bounded(plain, packed, inputs(_num_queries(lengths, queries), sum(lengths), dtype))


@pytest.mark.parametrize("size", [64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_head_size(size, dtype, bounded, inputs):
    lengths, prefix_of, queries = CASES["a family, few queries"]
    plain, packed = _both(lengths, prefix_of, queries, scale=size**-0.5)
    bounded(plain, packed, inputs(sum(queries), sum(lengths), dtype, size=size))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, 1.5)])
@EVERY_CASE
def test_output_of_flex_on_cpu(
    lengths, prefix_of, queries, window, softcap, dtype, bounded, inputs
):
    torch._dynamo.reset()  # uncompiled, each mask counts towards a limit of versions
    plain, packed = _both(
        *(lengths, prefix_of, queries, Backends("flex", "flex")),
        scale=0.25,
        window=window,
        softcap=softcap,
    )
    tensors = inputs(_num_queries(lengths, queries), sum(lengths), dtype)
    bounded(plain, packed, tensors, gradients=False)


def _assert_equals_the_reference(
    lengths, prefix_of, queries, gradients, inputs, *, seed=0, **options
):
    plain, packed = _both(lengths, prefix_of, queries, scale=0.3, **options)
    tensors = inputs(_num_queries(lengths, queries), sum(lengths), torch.float64, seed=seed)
    for want, found in zip(gradients(plain, tensors), gradients(packed, tensors), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 6])
@EVERY_CASE
def test_equals_the_reference_in_float64(
    lengths, prefix_of, queries, window, softcap, gradients, inputs
):
    _assert_equals_the_reference(
        lengths, prefix_of, queries, gradients, inputs, window=window, softcap=softcap
    )


LENGTHS = st.integers(1, 20)
FAMILIES = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, max_size=4)), min_size=1, max_size=4)


def _laid_out(families):
    lengths, prefix_of = [], []
    for prefix, branches in families:
        prefix_of += [-1] + [len(lengths)] * len(branches)
        lengths += [prefix, *branches]
    return lengths, prefix_of


@given(FAMILIES, st.none() | st.integers(1, 30), st.integers(0, 9), st.data())
def test_any_queries_of_any_families_equal_the_reference(
    gradients, inputs, families, window, seed, data
):
    lengths, prefix_of = _laid_out(families)
    queries = [data.draw(st.integers(0, length)) for length in lengths]
    _assert_equals_the_reference(
        lengths, prefix_of, queries, gradients, inputs, window=window, seed=seed
    )


@given(FAMILIES, st.none() | st.integers(1, 30))
def test_a_branch_equals_its_prefix_and_itself_as_one_document(inputs, families, window):
    lengths, prefix_of = _laid_out(families)
    tensors = [x.detach() for x in inputs(sum(lengths), sum(lengths), torch.float64)]
    _, packed = _both(lengths, prefix_of, None, scale=0.25, window=window)
    shared = packed(*tensors).split(lengths)
    pieces = [x.split(lengths) for x in tensors]
    for branch, prefix in enumerate(prefix_of):
        seen = [branch] if prefix < 0 else [prefix, branch]
        alone = reference.packed_attention(
            *(torch.cat([piece[segment] for segment in seen]) for piece in pieces),
            [sum(lengths[segment] for segment in seen)],
            scale=0.25,
            window=window,
        )
        want = alone[-lengths[branch] :]
        torch.testing.assert_close(shared[branch], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize(
    ("changed", "same"),
    [(0, [1, 2, 3, 4, 5]), (2, [0, 1, 3, 4, 5]), (3, [0, 1, 2, 4, 5]), (1, [0, 4, 5])],
    ids=["document", "branch", "its sibling", "prefix"],
)
def test_what_a_segment_does_not_see_changes_no_bit_of_it(changed, same, window, dtype, inputs):
    lengths, prefix_of = [5, 9, 4, 6, 3, 2], [-1, -1, 1, 1, -1, -1]
    tensors = [x.detach() for x in inputs(29, 29, dtype)]
    _, packed = _both(lengths, prefix_of, None, scale=0.25, window=window)
    before = packed(*tensors).split(lengths)
    for x in tensors:
        x.split(lengths)[changed].fill_(100.0)
    after = packed(*tensors).split(lengths)
    for segment in same:
        assert torch.equal(before[segment], after[segment])
    assert not torch.equal(before[changed], after[changed])
    if changed == 1:
        assert not torch.equal(before[2], after[2])


@pytest.mark.parametrize("backend", ["flash", "varlen", "flex", "sdpa"])
def test_no_query_at_all_gives_gradients_of_zero(backend, gradients, inputs):
    _, packed = _both([5, 3], [-1, 0], [0, 0], Backends(backend, backend), scale=1.0)
    tensors = inputs(0, 8, torch.bfloat16)
    out, *found = gradients(packed, tensors)
    assert out.shape == (0, 4, 16)
    for gradient, x in zip(found, tensors, strict=True):
        assert torch.equal(gradient, torch.zeros_like(x))


def test_segments_must_cover_the_queries_and_tokens(inputs):
    tensors = inputs(8, 8, torch.float32)
    for lengths, queries in (([4, 3], None), ([4, 4], [4, 3])):
        _, packed = _both(lengths, None, queries, scale=1.0)
        with pytest.raises(ValueError, match=r"segments have 7 queries .* the batch 8 of 8"):
            packed(*tensors)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# Dynamo looks at `.grad` of what it is given, transposed tensors too.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, None), (None, 1.5)])
@pytest.mark.parametrize("backend", ["flash", "varlen", "flex", "sdpa"])
def test_error_on_a_gpu_is_at_most_that_of_plain_attention(
    backend, window, softcap, size, bounded, inputs
):
    try:
        backends = choose_backends(
            torch.device("cuda"), torch.bfloat16, size, backend, softcap=softcap
        )
    except ConfigError as problem:
        pytest.skip(str(problem))
    for case in CASES.values():
        plain, packed = _both(
            *(*case, backends, "cuda"), scale=size**-0.5, window=window, softcap=softcap
        )
        lengths, _, queries = case
        num_queries = _num_queries(lengths, queries)
        bounded(plain, packed, inputs(num_queries, sum(lengths), torch.bfloat16, size=size))
