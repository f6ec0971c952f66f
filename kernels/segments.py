"""Where the segments of a packed row lie, what each of them sees, and which rows ask.

Built once a batch, on the host, from lengths that are known anyway, and handed through the model to
every layer: nothing is inferred per layer (transformers' own inference from position ids costs a
device synchronisation in every layer). What a back end needs beside it (offsets, masks) is made
when its first layer asks, and kept with the descriptor.

A segment may have a prefix: an earlier segment that all of its tokens see as well. So a document
with k targets is laid out once, with k branches that continue its positions and do not see each
other. Queries are the last tokens of their segments: all of them, or, in a trimmed last layer, as
many as the loss needs.

Shape legend: N segments, T tokens (keys), U queries, G gathered keys.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Made = TypeVar("Made")


@dataclass(frozen=True)
class Backends:
    """The attention back ends of a run: of rows without prefixes, and of rows with shared ones."""

    plain: str
    shared: str

    def __str__(self) -> str:
        return self.plain if self.plain == self.shared else f"{self.plain}, shared {self.shared}"


@dataclass(frozen=True)
class Segments:
    """Segments of a row, back to back from 0: `lengths` (N) in tokens, each at least 1.

    `prefix_of` (N) is the index of the segment that each one sees besides itself, or -1; `queries`
    (N) how many of its last tokens ask; `backend` who computes it.
    """

    lengths: tuple[int, ...]
    prefix_of: tuple[int, ...]
    queries: tuple[int, ...]
    backend: str
    device: torch.device
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device | str,
        backends: Backends,
        prefix_of: Sequence[int] | None = None,
        queries: Sequence[int] | None = None,
    ) -> "Segments":
        """Builds the descriptor; without `prefix_of` no segment has one, without `queries` all ask.

        Raises ValueError where a length is not positive, a segment has more queries than tokens, or
        a prefix is not an earlier segment or has one itself.
        """
        if min(lengths, default=1) < 1:
            raise ValueError(f"segment lengths must be positive, got {list(lengths)}")
        prefix_of = [-1] * len(lengths) if prefix_of is None else prefix_of
        queries = lengths if queries is None else queries
        for name, given in (("prefix_of", prefix_of), ("queries", queries)):
            if len(given) != len(lengths):
                raise ValueError(f"{len(lengths)} segments, but {len(given)} entries in {name}")
        for segment, prefix in enumerate(prefix_of):
            if not -1 <= prefix < segment:
                raise ValueError(f"segment {segment}: its prefix {prefix} is no earlier segment")
            if prefix >= 0 and prefix_of[prefix] >= 0:
                raise ValueError(f"segment {segment}: its prefix {prefix} has a prefix itself")
            if not 0 <= queries[segment] <= lengths[segment]:
                raise ValueError(
                    f"segment {segment}: {queries[segment]} queries of {lengths[segment]} tokens"
                )
        return cls(
            lengths=tuple(lengths),
            prefix_of=tuple(prefix_of),
            queries=tuple(queries),
            backend=backends.plain if max(prefix_of, default=-1) < 0 else backends.shared,
            device=torch.device(device),
        )

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returns, made at the first call with `key`."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made


@dataclass(frozen=True)
class Varlen:
    """Segments as flash's kernels take them: each with its queries, and its keys in one piece.

    `query_offsets` and `key_offsets` (N + 1, int32) are cumulative sums with a leading 0. `index`
    (G) are the tokens whose keys each segment sees, segment by segment, None where each sees just
    itself; `order` (G) sorts it, and `copies` (T) counts each token in it.
    """

    query_offsets: torch.Tensor
    key_offsets: torch.Tensor
    most_queries: int
    most_keys: int
    index: torch.Tensor | None
    order: torch.Tensor | None
    copies: torch.Tensor | None

    @classmethod
    def of(cls, segments: Segments) -> "Varlen":
        """Segments without a query are left out: no key is gathered for them."""
        asking = [i for i, count in enumerate(segments.queries) if count]
        index = order = copies = None
        key_lengths: Sequence[int] = segments.lengths
        queries = segments.queries
        if len(asking) < len(queries) or max(segments.prefix_of, default=-1) >= 0:
            index_G, key_lengths = gathered_keys(segments.lengths, segments.prefix_of, asking)
            queries = tuple(queries[i] for i in asking)
            counts_T = np.bincount(index_G, minlength=sum(segments.lengths))
            index, order, copies = (
                torch.from_numpy(x).to(segments.device, non_blocking=True)
                for x in (index_G, np.argsort(index_G, kind="stable"), counts_T)
            )
        return cls(
            query_offsets=_offsets(queries, segments.device),
            key_offsets=_offsets(key_lengths, segments.device),
            most_queries=max(queries, default=0),
            most_keys=max(key_lengths, default=0),
            index=index,
            order=order,
            copies=copies,
        )

    def keys(self, x_TKD: torch.Tensor) -> torch.Tensor:
        """Keys or values, segment after segment: (G, K, D)."""
        if self.index is None:
            return x_TKD
        gathered: torch.Tensor = _Gather.apply(x_TKD, self.index, self.order, self.copies)
        return gathered


class _Gather(torch.autograd.Function):
    """index_select whose gradient is summed in float32, in a fixed order.

    torch's own adds up copies of a prefix atomically and in the dtype of the keys.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TKD: torch.Tensor,
        index: torch.Tensor,
        order: torch.Tensor,
        copies: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(order, copies)
        return x_TKD.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad_GKD: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        order_G, copies_T = ctx.saved_tensors
        wide = torch.promote_types(grad_GKD.dtype, torch.float32)
        sorted_GKD = grad_GKD.index_select(0, order_G).to(wide)
        sums_TKD = torch.segment_reduce(
            sorted_GKD, "sum", lengths=copies_T, axis=0, unsafe=True, initial=0
        )
        return sums_TKD.to(grad_GKD.dtype), None, None, None


def _offsets(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    offsets[1:] = torch.tensor(list(lengths), dtype=torch.int32).cumsum(0)
    return offsets.to(device, non_blocking=True)


def gathered_keys(
    lengths: Sequence[int], prefix_of: Sequence[int], asking: Sequence[int]
) -> tuple[NDArray[np.int64], list[int]]:
    """The tokens whose keys the segments `asking` see, prefixes first, and how many each sees.

    The first is (G), segment after segment. A segment's queries are the last of its keys, so that a
    causal mask aligned at the end is the right one.
    """
    ends = np.cumsum(lengths)
    own = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    seen = [
        own[i] if prefix_of[i] < 0 else np.concatenate([own[prefix_of[i]], own[i]]) for i in asking
    ]
    return np.concatenate([np.zeros(0, np.int64), *seen]), [len(keys) for keys in seen]
