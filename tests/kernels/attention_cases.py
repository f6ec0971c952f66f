"""Rows of segments, and a back end beside the reference as functions of q, k and v."""

import torch
from hypothesis import strategies as st

from sumzero.kernels import reference
from sumzero.kernels.packed_attention import packed_attention
from sumzero.kernels.segments import Backends, Segments

HEADS, KEY_HEADS, SIZE = 4, 2, 16
CASES = {  # lengths, prefix_of, queries
    "one": ([61], [-1], [61]),
    "length one": ([1, 1, 1], [-1, -1, -1], [1, 1, 1]),
    "odd": ([3, 17, 1, 40, 5], [-1] * 5, [3, 17, 1, 40, 5]),
    "a family of unequal branches": ([13, 4, 9, 1], [-1, 0, 0, 0], [13, 4, 9, 1]),
    "a lone branch": ([13, 4], [-1, 0], [13, 4]),
    "prefix and branches of length one": ([1, 1, 1], [-1, 0, 0], [1, 1, 1]),
    "families among documents": (
        [5, 9, 3, 2, 7, 4, 6, 8],
        [-1, -1, 1, 1, -1, -1, 5, 5],
        [5, 9, 3, 2, 7, 4, 6, 8],
    ),
    "branches too long for one call": ([30, 200, 100, 20], [-1, 0, 0, 0], [30, 200, 100, 20]),
    "many branches": ([24] + [30] * 32, [-1] + [0] * 32, [24] + [30] * 32),
    "a prefix apart from its branch": ([7, 5, 3], [-1, -1, 0], [7, 5, 3]),
    "last tokens ask": ([20, 9, 33], [-1] * 3, [4, 9, 1]),
    "some segments ask nothing": ([20, 9, 33, 5], [-1] * 4, [0, 2, 0, 5]),
    "branches ask, their prefix not": ([13, 4, 9, 6], [-1, 0, 0, 0], [0, 3, 9, 1]),
    "a branch between asks nothing": ([13, 4, 9, 6], [-1, 0, 0, 0], [1, 3, 0, 6]),
    "nothing asks": ([13, 4], [-1, 0], [0, 0]),
}


def inputs_of(lengths, queries, dtype, size=SIZE, seed=0):
    """q, k and v as a fused projection hands them over: slices of a wider tensor."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(
        sum(lengths), HEADS + 2 * KEY_HEADS, size + 8, generator=generator, dtype=torch.float64
    )
    q, k, v = wide[..., :size].to(dtype).split([HEADS, KEY_HEADS, KEY_HEADS], dim=1)
    asks = [torch.arange(n) >= n - count for n, count in zip(lengths, queries, strict=True)]
    return [x.detach().requires_grad_() for x in (q[torch.cat(asks)], k, v)]


def run(attend, inputs):
    """The output and the gradients of q, k and v."""
    out = attend(*inputs)
    gradient = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    return [out, *torch.autograd.grad(out, inputs, gradient)]


def both(case, backend="sdpa", device="cpu", *, scale=SIZE**-0.5, window=None, softcap=None):
    """The reference and a back end."""
    lengths, prefix_of, queries = case
    options = {"scale": scale, "window": window, "softcap": softcap}
    segments = Segments.of(lengths, device, Backends(backend, backend), prefix_of, queries)
    return (
        lambda *qkv: reference.packed_attention(
            *qkv, lengths, prefix_of=prefix_of, queries=queries, **options
        ),
        lambda *qkv: packed_attention(*(x.to(device) for x in qkv), segments, **options).to("cpu"),
    )


LENGTHS = st.integers(1, 20)


@st.composite
def families(draw):
    """Lengths, prefixes and queries of families of a prefix and its branches."""
    lengths, prefix_of = [], []
    shapes = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, max_size=4)), min_size=1, max_size=4)
    for prefix, branches in draw(shapes):
        prefix_of += [-1] + [len(lengths)] * len(branches)
        lengths += [prefix, *branches]
    return lengths, prefix_of, [draw(st.integers(0, length)) for length in lengths]
