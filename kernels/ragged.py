"""Segments for kernels of variable lengths (flash-attn, torch's varlen): offsets and gathered keys.

These kernels take queries and keys back to back, one sequence after another, with a causal mask
aligned at the end: the queries of a segment are the last of its keys. Without prefixes the keys lie
so already. With prefixes they are gathered: each segment's prefix, then its own. A prefix with k
branches is copied k times; FlexAttention needs no copy.

The gradient of the gather adds up in float32, in a fixed order: the first occurrence of every
token, then the second, and so on, so that no two additions meet (an index_add of all at once is
atomic on CUDA, in an order that differs from run to run).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sumzero.kernels.segments import Segments


class Ragged(NamedTuple):
    """What a kernel of variable lengths is told of a batch, on the batch's device.

    `query_offsets` and `key_offsets` (segments + 1, int32) are cumulative sums of lengths with a
    leading 0; `key_index` (G) the token of each gathered key, None where the keys lie right as they
    are; `occurrences` pairs, of the first, second, ... occurrence of tokens in `key_index`, the
    places in it and the tokens.
    """

    query_offsets: torch.Tensor
    key_offsets: torch.Tensor
    longest_queries: int
    longest_keys: int
    key_index: torch.Tensor | None
    occurrences: list[tuple[torch.Tensor, torch.Tensor]]

    def gather(self, x_TKD: torch.Tensor) -> torch.Tensor:
        """The keys or values that the segments see, segment after segment: (G, K, D)."""
        if self.key_index is None:
            return x_TKD
        gathered_GKD: torch.Tensor = _Gather.apply(x_TKD, self.key_index, self.occurrences)
        return gathered_GKD


def ragged(segments: Segments, _: int | None = None) -> Ragged:
    """Offsets and gathered keys, whatever the window: the kernels take it themselves."""
    device = segments.device
    # A longest of 1 sends flash-attn 2 another way, on which each sequence has one query.
    longest_queries = max(2, *segments.queries)
    if max(segments.prefix_of, default=-1) < 0:
        return Ragged(
            _offsets(segments.queries, device),
            _offsets(segments.lengths, device),
            longest_queries,
            max(segments.lengths),
            None,
            [],
        )
    asking = [i for i, queries in enumerate(segments.queries) if queries]
    keys = [_keys_of(segments, segment) for segment in asking]
    index_G = np.concatenate(keys)
    return Ragged(
        _offsets([segments.queries[i] for i in asking], device),
        _offsets([len(x) for x in keys], device),
        longest_queries,
        max(len(x) for x in keys),
        torch.from_numpy(index_G).to(device, non_blocking=True),
        [
            (torch.from_numpy(a).to(device), torch.from_numpy(b).to(device))
            for a, b in _occurrences(index_G)
        ],
    )


def ragged_refusal(capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int) -> str:
    """Why no kernel of variable lengths runs on a GPU of that compute capability, or ""."""
    if capability is None:
        return "it runs on CUDA"
    if capability < (8, 0):
        return f"it needs compute capability 8.0, the GPU has {capability[0]}.{capability[1]}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, the model is {dtype}".replace("torch.", "")
    if head_size > 256 or head_size % 8:
        return f"it takes heads of up to 256 in steps of 8, the model's are {head_size}"
    return ""


def _keys_of(segments: Segments, segment: int) -> NDArray[np.int64]:
    seen = [segments.prefix_of[segment], segment] if segments.prefix_of[segment] >= 0 else [segment]
    starts, lengths = segments.starts, segments.lengths
    return np.concatenate([np.arange(starts[i], starts[i] + lengths[i]) for i in seen])


def _offsets(lengths: tuple[int, ...] | list[int], device: torch.device) -> torch.Tensor:
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    return torch.from_numpy(offsets).to(device, non_blocking=True)


def _occurrences(index_G: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    place_G = np.argsort(index_G, kind="stable")
    token_G = index_G[place_G]
    rank_G = np.arange(len(token_G)) - np.searchsorted(token_G, token_G)
    return [(place_G[rank_G == rank], token_G[rank_G == rank]) for rank in range(rank_G.max() + 1)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TKD: torch.Tensor,
        index_G: torch.Tensor,
        occurrences: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        ctx.occurrences = occurrences
        ctx.shape = x_TKD.shape
        return x_TKD.index_select(0, index_G)

    @staticmethod
    def backward(ctx: Any, grad_GKD: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        exact = torch.promote_types(grad_GKD.dtype, torch.float32)
        total_TKD = grad_GKD.new_zeros(ctx.shape, dtype=exact)
        for place, token in ctx.occurrences:
            total_TKD.index_add_(0, token, grad_GKD.index_select(0, place).to(exact))
        return total_TKD.to(grad_GKD.dtype), None, None
