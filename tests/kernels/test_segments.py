import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask

from sumzero.errors import ConfigError
from sumzero.kernels import reference
from sumzero.kernels.attention_flex import block_mask
from sumzero.kernels.packed_attention import choose_backends, choose_for_capability
from sumzero.kernels.ragged import ragged
from sumzero.kernels.segments import Backends, Segments

SDPA = Backends("sdpa", "sdpa")
HOPPER, TURING = (9, 0), (7, 5)


@st.composite
def layouts(draw, longest=20):
    """Lengths, prefixes and queries, of at least one query."""
    lengths, prefix_of = [], []
    for _ in range(draw(st.integers(1, 4))):
        branches = draw(st.lists(st.integers(1, longest), max_size=3))
        prefix_of += [-1] + [len(lengths)] * len(branches)
        lengths += [draw(st.integers(1, longest)), *branches]
    queries = [draw(st.integers(0, length)) for length in lengths]
    queries[-1] = max(1, queries[-1])
    return lengths, prefix_of, queries


@pytest.mark.parametrize("window", [None, 6])
@given(layout=layouts())
def test_gathered_keys_are_those_of_the_reference(inputs, window, layout):
    """The kernels themselves need CUDA: causal attention aligned at the end, over these keys."""
    lengths, prefix_of, queries = layout
    q, k, v = (x.detach() for x in inputs(sum(queries), sum(lengths), torch.float64))
    keys = ragged(Segments.of(lengths, "cpu", SDPA, prefix_of, queries))
    assert keys.longest_keys == keys.key_offsets.diff().max()
    assert keys.longest_queries == max(2, int(keys.query_offsets.diff().max()))
    found = reference.packed_attention(
        *(q, keys.gather(k), keys.gather(v), keys.key_offsets.diff().tolist()),
        scale=0.3,
        window=window,
        queries=keys.query_offsets.diff().tolist(),
    )
    want = reference.packed_attention(
        q, k, v, lengths, scale=0.3, window=window, prefix_of=prefix_of, queries=queries
    )
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def test_gathered_gradients_add_up_in_float32():
    lengths, prefix_of = [1, *[1] * 300], [-1, *[0] * 300]
    keys = ragged(Segments.of(lengths, "cpu", SDPA, prefix_of))
    x = torch.zeros(301, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    keys.gather(x).sum().backward()
    assert x.grad[0] == torch.tensor(301.0).bfloat16()  # in bfloat16, 256 + 1 = 256
    assert (x.grad[1:] == 1).all()


@pytest.mark.parametrize("window", [None, 150])
@given(layout=layouts(longest=260))
def test_the_block_mask_is_that_of_flexattention(window, layout):
    lengths, prefix_of, queries = layout
    found = block_mask(Segments.of(lengths, "cpu", SDPA, prefix_of, queries), window)
    want = create_block_mask(found.mask_mod, None, None, sum(queries), sum(lengths), device="cpu")
    assert found.shape == want.shape
    for counts, places in (
        ("kv_num_blocks", "kv_indices"),
        ("full_kv_num_blocks", "full_kv_indices"),
        ("q_num_blocks", "q_indices"),
        ("full_q_num_blocks", "full_q_indices"),
    ):
        assert torch.equal(getattr(found, counts), getattr(want, counts))
        assert torch.equal(getattr(found, places), getattr(want, places))


def test_what_a_back_end_builds_is_built_once_a_window():
    segments = Segments.of([4, 3], "cpu", SDPA)
    built = [segments.of_window(window, lambda *_: object()) for window in (None, 5, None, 5)]
    assert built[0] is built[2]
    assert built[1] is built[3]
    assert built[0] is not built[1]


@pytest.mark.parametrize(
    ("prefix_of", "queries", "problem"),
    [
        ([-1, -1], None, "3 segments, but 2 entries in prefix_of"),
        ([-1, 2, -1], None, "segment 1: its prefix 2 is no earlier segment"),
        ([0, -1, -1], None, "segment 0: its prefix 0 is no earlier segment"),
        ([-1, -2, -1], None, "segment 1: its prefix -2 is no earlier segment"),
        ([-1, 0, 1], None, "segment 2: its prefix 1 has a prefix itself"),
        (None, [1, 1], "3 segments, but 2 entries in queries"),
        (None, [1, 4, 1], "segment 1: 4 queries of 3 tokens"),
        (None, [-1, 1, 1], "segment 0: -1 queries of 4 tokens"),
    ],
)
def test_segments_that_make_no_sense_are_refused(prefix_of, queries, problem):
    with pytest.raises(ValueError, match=problem):
        Segments.of([4, 3, 2], "cpu", SDPA, prefix_of, queries)


def test_lengths_are_positive():
    with pytest.raises(ValueError, match="positive"):
        Segments.of([4, 0], "cpu", SDPA)


def test_a_batch_with_a_prefix_takes_the_back_end_of_shared_documents():
    backends = Backends(plain="varlen", shared="flex")
    assert Segments.of([4, 3], "cpu", backends).backend == "varlen"
    assert Segments.of([4, 3], "cpu", backends, [-1, 0]).backend == "flex"


def test_auto_takes_what_can_be_used():
    assert choose_backends(torch.device("cpu"), torch.bfloat16, 128) == SDPA
    assert choose_for_capability(TURING, torch.float32, 128).plain == "flex"
    on_gpu = choose_for_capability(HOPPER, torch.bfloat16, 128)
    assert on_gpu.plain in ("flash", "varlen")
    assert choose_for_capability(HOPPER, torch.bfloat16, 300).plain == "flex"
    assert choose_for_capability(HOPPER, torch.bfloat16, 8).plain in ("flash", "varlen")
    assert choose_for_capability(HOPPER, torch.float32, 8).plain == "sdpa"
    assert choose_for_capability(HOPPER, torch.bfloat16, 64, softcap=50.0).plain != "varlen"


@pytest.mark.parametrize(
    ("asked", "capability", "dtype", "size", "softcap", "problem"),
    [
        ("flash", None, torch.bfloat16, 64, None, r"runs on CUDA; use auto \(sdpa\)"),
        ("varlen", None, torch.bfloat16, 64, None, r"runs on CUDA; use auto \(sdpa\)"),
        ("flex", None, torch.bfloat16, 64, None, r"no backward on CPU\); use auto \(sdpa\)"),
        ("flash", HOPPER, torch.float32, 64, None, "the model is float32; use auto .*sdpa"),
        ("varlen", HOPPER, torch.float32, 64, None, "the model is float32; use auto .*sdpa"),
        ("varlen", HOPPER, torch.bfloat16, 264, None, "up to 256 in steps of 8, .* are 264"),
        ("flash", HOPPER, torch.bfloat16, 20, None, "up to 256 in steps of 8, .* are 20"),
        ("flex", HOPPER, torch.bfloat16, 8, None, "at least 16, the model's are 8; .*sdpa"),
        ("varlen", HOPPER, torch.bfloat16, 64, 50.0, "no logit soft-capping"),
        ("varlen", TURING, torch.float32, 64, None, "compute capability 8.0, the GPU has 7.5"),
        ("flash", TURING, torch.float16, 64, None, "compute capability 8.0, the GPU has 7.5"),
        ("auto", TURING, torch.bfloat16, 64, None, "model.dtype: bfloat16 .*7.5; use float32"),
        ("fast", None, torch.float32, 64, None, "none of auto, flash, varlen, flex, sdpa"),
    ],
)
def test_a_back_end_that_cannot_run_is_refused_with_what_would(
    asked, capability, dtype, size, softcap, problem
):
    with pytest.raises(ConfigError, match=problem):
        choose_for_capability(capability, dtype, size, asked, softcap)
