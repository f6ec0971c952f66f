"""Which tokens of a packed row see which: segments, their prefixes, and their queries.

A bin of several documents is one row of tokens; `Segments` says where each begins and ends. It is
built once a batch, on the host, from lengths that are known anyway, and handed through the model to
every layer: nothing is inferred per layer (transformers' own inference from position ids costs a
device synchronisation in every layer). What a back end derives from it (offsets, masks, a block
mask) is built at its first use and kept.

A segment may have a prefix: an earlier segment that all of its tokens see as well. So a document
with k targets is laid out once, with k branches that continue its positions and do not see each
other; outputs and gradients are those of k separate sequences.

A segment's queries are its last tokens: all of them, or fewer where only some outputs are needed,
as in the last layer of a model whose loss is on few tokens.

Shape legend: T tokens, N segments, U queries, G keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

BACKENDS = ("flash", "varlen", "flex", "sdpa")
Built = TypeVar("Built")


@dataclass(frozen=True)
class Backends:
    """The back ends, names out of BACKENDS, of plain packed batches and of shared prefixes."""

    plain: str
    shared: str

    def __str__(self) -> str:
        return f"{self.plain}, shared documents: {self.shared}"


class Places(NamedTuple):
    """Where each of T tokens stands, int32: its segment, that one's prefix or -1, its position.

    Positions count from the start of the prefix, or of a segment without one.
    """

    segment: torch.Tensor
    prefix: torch.Tensor
    position: torch.Tensor


def sees(
    places: Places, query: torch.Tensor, key: torch.Tensor, window: torch.Tensor | int | None
) -> torch.Tensor:
    """Whether the tokens `query` see the tokens `key`: indices into the row, broadcast together."""
    segment_T, prefix_T, position_T = places
    distance = position_T[query] - position_T[key]
    own = (segment_T[query] == segment_T[key]) & (distance >= 0)
    seen = own | (prefix_T[query] == segment_T[key])
    return seen if window is None else seen & (distance < window)


@dataclass(frozen=True)
class Segments:
    """Where the segments of a packed row lie: `lengths` (N) in tokens, back to back from 0.

    `prefix_of` (N) is the index of the segment that each one sees besides itself, or -1; `queries`
    (N) how many of its last tokens are queries; `backend` one of BACKENDS. `ranks` are those that
    share the row, of which each holds one of equal parts, in their order; None: this rank has all.
    """

    lengths: tuple[int, ...]
    prefix_of: tuple[int, ...]
    queries: tuple[int, ...]
    backend: str
    device: torch.device
    ranks: dist.ProcessGroup | None = None
    _built: dict[int | None, object] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device | str,
        backends: Backends,
        prefix_of: Sequence[int] | None = None,
        queries: Sequence[int] | None = None,
    ) -> "Segments":
        """Without `prefix_of`, no segment has a prefix; without `queries`, all tokens are queries.

        Raises ValueError where a length is not positive, a prefix is not an earlier segment or has
        one itself, or a segment has fewer tokens than queries.
        """
        if min(lengths, default=1) < 1:
            raise ValueError(f"segment lengths must be positive, got {list(lengths)}")
        prefix_of = [-1] * len(lengths) if prefix_of is None else prefix_of
        queries = lengths if queries is None else queries
        if len(prefix_of) != len(lengths):
            raise ValueError(f"{len(lengths)} segments, but {len(prefix_of)} entries in prefix_of")
        if len(queries) != len(lengths):
            raise ValueError(f"{len(lengths)} segments, but {len(queries)} entries in queries")
        for segment, (length, prefix, asked) in enumerate(
            zip(lengths, prefix_of, queries, strict=True)
        ):
            if not -1 <= prefix < segment:
                raise ValueError(f"segment {segment}: its prefix {prefix} is no earlier segment")
            if prefix >= 0 and prefix_of[prefix] >= 0:
                raise ValueError(f"segment {segment}: its prefix {prefix} has a prefix itself")
            if not 0 <= asked <= length:
                raise ValueError(f"segment {segment}: {asked} queries of {length} tokens")
        has_prefix = max(prefix_of, default=-1) >= 0
        return cls(
            tuple(lengths),
            tuple(prefix_of),
            tuple(queries),
            backends.shared if has_prefix else backends.plain,
            torch.device(device),
        )

    @property
    def num_tokens(self) -> int:
        """Of the row: T."""
        return sum(self.lengths)

    @property
    def num_queries(self) -> int:
        """Of all segments: U."""
        return sum(self.queries)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first token of each segment: (N)."""
        return np.cumsum([0, *self.lengths[:-1]])

    @cached_property
    def query_tokens(self) -> NDArray[np.int64]:
        """The token that each query is: (U)."""
        ends = self.starts + np.array(self.lengths)
        firsts = ends - np.array(self.queries)
        return np.concatenate([np.arange(a, b) for a, b in zip(firsts, ends, strict=True)])

    def places(self, device: torch.device | str) -> Places:
        """Where each token stands, on `device`."""
        lengths, prefix_of = np.array(self.lengths), np.array(self.prefix_of)
        segment_T = np.repeat(np.arange(len(lengths)), lengths)
        first_position = np.where(prefix_of < 0, 0, lengths[prefix_of])
        position_T = np.arange(len(segment_T)) - (self.starts - first_position)[segment_T]
        arrays = (segment_T, prefix_of[segment_T], position_T)
        return Places(*(torch.from_numpy(x.astype(np.int32)).to(device) for x in arrays))

    def of_window(
        self, window: int | None, build: Callable[["Segments", int | None], Built]
    ) -> Built:
        """What the back end builds for a window, built once."""
        if window not in self._built:
            self._built[window] = build(self, window)
        built: Built = self._built[window]  # type: ignore[assignment]  # a batch has one back end
        return built
