import pytest
import torch
from hypothesis import assume, given

from sumzero.kernels import reference
from sumzero.kernels.segments import Backends, Segments, Varlen, gathered_keys

from .attention_cases import HEADS, SIZE, families, inputs_of

SDPA = Backends("sdpa", "sdpa")


@pytest.mark.parametrize("window", [None, 6])
@given(families())
def test_keys_gathered_for_flash_are_those_of_the_reference(window, case):
    """Flash itself needs CUDA: causal attention aligned at the end, over the keys it is handed."""
    lengths, prefix_of, queries = case
    assume(sum(queries))  # without a query no back end is called
    q, k, v = (x.detach() for x in inputs_of(lengths, queries, torch.float64))
    varlen = Varlen.of(Segments.of(lengths, "cpu", SDPA, prefix_of, queries))
    assert varlen.most_queries == max(queries)
    found = []
    for asked, seen in zip(
        varlen.query_offsets.unfold(0, 2, 1), varlen.key_offsets.unfold(0, 2, 1), strict=True
    ):
        keys, values = (varlen.keys(x)[seen[0] : seen[1]] for x in (k, v))
        assert len(keys) <= varlen.most_keys
        own = q[asked[0] : asked[1]]
        padded = torch.cat([own.new_zeros(len(keys) - len(own), HEADS, SIZE), own])
        out = reference.packed_attention(
            padded, keys, values, [len(keys)], scale=0.3, window=window
        )
        found.append(out[-len(own) :])
    want = reference.packed_attention(
        q, k, v, lengths, scale=0.3, window=window, prefix_of=prefix_of, queries=queries
    )
    torch.testing.assert_close(torch.cat(found), want, rtol=1e-12, atol=1e-12)


@given(families())
def test_the_gradient_of_gathered_keys_is_summed_over_their_copies(case):
    lengths, prefix_of, queries = case
    varlen = Varlen.of(Segments.of(lengths, "cpu", SDPA, prefix_of, queries))
    _, k, _ = inputs_of(lengths, queries, torch.float64)
    gathered = varlen.keys(k)
    weights = torch.linspace(-1, 1, gathered.numel(), dtype=k.dtype).view_as(gathered)
    (found,) = torch.autograd.grad(gathered, k, weights)
    index = torch.arange(len(k)) if varlen.index is None else varlen.index
    want = torch.zeros_like(k).index_add(0, index, weights)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_many_copies_is_summed_in_float32():
    branches = 300
    segments = Segments.of([1] * (branches + 1), "cpu", SDPA, [-1] + [0] * branches)
    keys = torch.ones(branches + 1, 1, 8, dtype=torch.bfloat16, requires_grad=True)
    Varlen.of(segments).keys(keys).sum().backward()
    # bfloat16 counts to 256 by ones, and no further.
    assert keys.grad[0].eq(torch.tensor(branches + 1, dtype=torch.bfloat16)).all()


def test_keys_are_gathered_prefix_first():
    index, lengths = gathered_keys([2, 3, 1, 2], [-1, 0, -1, 0], [0, 1, 3])
    assert lengths == [2, 5, 4]
    assert index.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 6, 7]


def test_nothing_is_gathered_where_each_segment_sees_itself():
    assert Varlen.of(Segments.of([2, 3], "cpu", SDPA)).index is None
    assert Varlen.of(Segments.of([2, 3], "cpu", SDPA, queries=[1, 3])).index is None


def test_rows_with_a_prefix_take_the_shared_back_end():
    backends = Backends("flash", "flex")
    assert Segments.of([4, 3], "cpu", backends).backend == "flash"
    assert Segments.of([4, 3], "cpu", backends, [-1, 0]).backend == "flex"


def test_what_is_made_is_made_once():
    segments, made = Segments.of([4, 3], "cpu", SDPA), []
    assert segments.once("x", lambda: made.append(1)) is segments.once("x", lambda: made.append(2))
    assert made == [1]


@pytest.mark.parametrize(
    ("lengths", "options", "problem"),
    [
        ([4, 0], {}, "lengths must be positive"),
        ([4, 3, 2], {"prefix_of": [-1, -1]}, "3 segments, but 2 entries in prefix_of"),
        ([4, 3, 2], {"prefix_of": [-1, 2, -1]}, "segment 1: its prefix 2 is no earlier segment"),
        ([4, 3, 2], {"prefix_of": [0, -1, -1]}, "segment 0: its prefix 0 is no earlier segment"),
        ([4, 3, 2], {"prefix_of": [-1, -2, -1]}, "segment 1: its prefix -2 is no earlier"),
        ([4, 3, 2], {"prefix_of": [-1, 0, 1]}, "segment 2: its prefix 1 has a prefix itself"),
        ([4, 3, 2], {"queries": [4, 3]}, "3 segments, but 2 entries in queries"),
        ([4, 3, 2], {"queries": [4, 4, 2]}, "segment 1: 4 queries of 3 tokens"),
        ([4, 3, 2], {"queries": [-1, 3, 2]}, "segment 0: -1 queries of 4 tokens"),
    ],
)
def test_a_row_that_cannot_be_is_refused(lengths, options, problem):
    with pytest.raises(ValueError, match=problem):
        Segments.of(lengths, "cpu", SDPA, **options)
