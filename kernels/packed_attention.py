"""Causal attention over the segments of a packed batch: no token sees another document.

A bin of several documents is one row of tokens; `Segments` says where each begins and ends. It is
built once a batch, on the host, from lengths that are known anyway, and handed through the model to
every layer: nothing is inferred per layer (transformers' own inference from position ids costs a
device synchronisation in every layer).

A segment may have a prefix: an earlier segment that all of its tokens see as well. So a document
with k targets is laid out once, with k branches that continue its positions and do not see each
other; outputs and gradients are those of k separate sequences.

Back ends, all held to `reference.py` by tests/kernels/test_packed_attention.py:

    flash  flash-attn's varlen kernel: one launch a layer; CUDA, float16 or bfloat16
    sdpa   torch's scaled_dot_product_attention, a call a segment or a few short branches of one
           prefix; every device and dtype

Cost: sum of l * (p + l / 2) over the segments, of length l behind a prefix of length p. Memory is
linear in the keys, p + l a segment; only sdpa holds masks, l * (p + l) a branch or cut window.

Shape legend: T tokens, H query heads, K key heads (K divides H), D head size, N segments, Q queries
of a call, G gathered keys.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import AttentionInterface

from sumzero.errors import ConfigError

NAME = "sumzero_packed"  # the `attn_implementation` a model is loaded with
BACKENDS = ("flash", "sdpa")
# Of neighbouring branches. Measured, prefix 1,200 and 40 branches of 40, bfloat16, forward and
# backward: 400 ms one by one, 304 ms at 256, 452 ms all in one. Each call holds the prefix's keys.
_TOKENS_OF_A_CALL = 256


@dataclass(frozen=True)
class Segments:
    """Where the segments of a packed row lie: `lengths` (N) in tokens, back to back from 0.

    `prefix_of` (N) is the index of the segment that each one sees besides itself, or -1; `backend`
    one of BACKENDS. For flash, on the batch's device: `offsets` (N + 1, int32), the cumulative sum
    of lengths with a leading 0; `key_index` (G), the tokens whose keys each segment sees, segment
    by segment, None where every segment sees itself only; `key_offsets` (N + 1, int32) into it.
    """

    lengths: tuple[int, ...]
    prefix_of: tuple[int, ...]
    backend: str
    offsets: torch.Tensor
    key_index: torch.Tensor | None
    key_offsets: torch.Tensor
    longest_keys: int

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        device: torch.device | str,
        backend: str,
        prefix_of: Sequence[int] | None = None,
    ) -> "Segments":
        """Builds the descriptor; without `prefix_of`, no segment has a prefix.

        Raises ValueError where a length is not positive, or a prefix is not an earlier segment or
        has one itself.
        """
        if min(lengths, default=1) < 1:
            raise ValueError(f"segment lengths must be positive, got {list(lengths)}")
        prefix_of = [-1] * len(lengths) if prefix_of is None else prefix_of
        if len(prefix_of) != len(lengths):
            raise ValueError(f"{len(lengths)} segments, but {len(prefix_of)} entries in prefix_of")
        for segment, prefix in enumerate(prefix_of):
            if not -1 <= prefix < segment:
                raise ValueError(f"segment {segment}: its prefix {prefix} is no earlier segment")
            if prefix >= 0 and prefix_of[prefix] >= 0:
                raise ValueError(f"segment {segment}: its prefix {prefix} has a prefix itself")
        offsets = key_offsets = _offsets(lengths, device)
        key_index, longest = None, max(lengths, default=0)
        if backend == "flash" and max(prefix_of, default=-1) >= 0:
            index_G, key_lengths = gathered_keys(lengths, prefix_of)
            key_index = torch.from_numpy(index_G).to(device, non_blocking=True)
            key_offsets, longest = _offsets(key_lengths, device), max(key_lengths)
        return cls(
            lengths=tuple(lengths),
            prefix_of=tuple(prefix_of),
            backend=backend,
            offsets=offsets,
            key_index=key_index,
            key_offsets=key_offsets,
            longest_keys=longest,
        )

    def calls(self) -> Iterator[tuple[int, int]]:
        """The runs of segments, (first, past the last), that sdpa attends to in one call each.

        Neighbouring branches of a prefix share one while they are short.
        """
        first = tokens = 0
        for segment, (length, prefix) in enumerate(zip(self.lengths, self.prefix_of, strict=True)):
            joins = prefix >= 0 and prefix == self.prefix_of[first]
            if segment > first and not (joins and tokens + length <= _TOKENS_OF_A_CALL):
                yield first, segment
                first, tokens = segment, 0
            tokens += length
        yield first, len(self.lengths)


def _offsets(lengths: Sequence[int], device: torch.device | str) -> torch.Tensor:
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    offsets[1:] = torch.tensor(list(lengths), dtype=torch.int32).cumsum(0)
    return offsets.to(device, non_blocking=True)


def gathered_keys(
    lengths: Sequence[int], prefix_of: Sequence[int]
) -> tuple[NDArray[np.int64], list[int]]:
    """The tokens whose keys each segment sees, its prefix before itself, and how many they are.

    The first is (G), segment after segment. A segment's queries are the last of its keys, so that a
    causal mask aligned at the end is the right one.
    """
    ends = np.cumsum(lengths)
    own = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    seen = [
        keys if prefix < 0 else np.concatenate([own[prefix], keys])
        for keys, prefix in zip(own, prefix_of, strict=True)
    ]
    return np.concatenate(seen), [len(keys) for keys in seen]


def choose_backend(device: torch.device, dtype: torch.dtype, asked: str = "auto") -> str:
    """The back end for a device and dtype: `asked`, or the fastest one that is installed.

    Raises ConfigError where the one asked for is absent or cannot take the device or dtype.
    """
    missing = _flash_is_missing(device, dtype)
    if asked == "auto":
        return "sdpa" if missing else "flash"
    if asked not in BACKENDS:
        raise ConfigError(f"model.attention: {asked!r} is none of auto, {', '.join(BACKENDS)}")
    if asked == "flash" and missing:
        raise ConfigError(f"model.attention: flash cannot be used: {missing}; use auto or sdpa")
    return asked


def _flash_is_missing(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda":
        return f"it runs on CUDA, the device is {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, the model is {dtype}"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed (pip install 'sumzero[flash]')"
    return ""


def packed_attention(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Attention of each token to its prefix, its segment's earlier tokens and itself: (T, H, D).

    `window` limits it to the last `window` positions, the token itself included; a segment's
    positions continue from those of its prefix. Raises ValueError where the segments do not cover
    the T tokens.
    """
    if sum(segments.lengths) != q_THD.shape[0]:
        raise ValueError(
            f"segments cover {sum(segments.lengths)} tokens, the batch has {q_THD.shape[0]}"
        )
    if segments.backend == "flash":
        return _flash(q_THD, k_TKD, v_TKD, segments, scale, window)
    return _sdpa(q_THD, k_TKD, v_TKD, segments, scale, window)


def _sdpa(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    lengths = segments.lengths
    # Split, not sliced: the gradient of a slice is as large as the whole row.
    q, k, v = (x.split_with_sizes(list(lengths)) for x in (q_THD, k_TKD, v_TKD))
    out = []
    for first, end in segments.calls():
        prefix = segments.prefix_of[first]
        seen = [*([] if prefix < 0 else [prefix]), *range(first, end)]
        num_before = 0 if prefix < 0 else lengths[prefix]
        mask_QG = _mask(num_before, lengths[first:end], window, q_THD.device)
        q_1HQD = _heads_first([q[segment] for segment in range(first, end)])
        k_1KGD = _heads_first([k[segment] for segment in seen])
        v_1KGD = _heads_first([v[segment] for segment in seen])
        if mask_QG is not None and q_THD.is_cuda:  # its kernels that take a mask take no groups
            num_groups = q_THD.shape[1] // k_TKD.shape[1]
            k_1KGD, v_1KGD = (x.repeat_interleave(num_groups, 1) for x in (k_1KGD, v_1KGD))
        out_1HQD = F.scaled_dot_product_attention(
            *(q_1HQD, k_1KGD, v_1KGD, mask_QG),
            is_causal=mask_QG is None,
            scale=scale,
            enable_gqa=q_1HQD.shape[1] != k_1KGD.shape[1],
        )
        out.append(out_1HQD.squeeze(0).transpose(0, 1))
    return torch.cat(out)


def _heads_first(pieces: list[torch.Tensor]) -> torch.Tensor:
    joined_THD = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return joined_THD.transpose(0, 1).unsqueeze(0)


def _mask(
    num_before: int, lengths: Sequence[int], window: int | None, device: torch.device
) -> torch.Tensor | None:
    """What each query of neighbouring branches sees, (Q, G); None where plainly causal."""
    if not num_before and len(lengths) == 1 and (window is None or lengths[0] <= window):
        return None
    position_Q = torch.cat([torch.arange(n, device=device) for n in lengths])  # behind the prefix
    position_G = torch.cat([torch.arange(-num_before, 0, device=device), position_Q])
    branch_Q = torch.cat([torch.full((n,), i, device=device) for i, n in enumerate(lengths)])
    mask_QG = position_G <= position_Q[:, None]
    mask_QG[:, num_before:] &= branch_Q == branch_Q[:, None]
    if window is not None:
        mask_QG &= position_G > position_Q[:, None] - window
    return mask_QG


def _flash(
    q_THD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    from flash_attn import flash_attn_varlen_func

    if segments.key_index is not None:
        k_TKD, v_TKD = (x.index_select(0, segments.key_index) for x in (k_TKD, v_TKD))
    out: torch.Tensor = flash_attn_varlen_func(
        q_THD,
        k_TKD,
        v_TKD,
        cu_seqlens_q=segments.offsets,
        cu_seqlens_k=segments.key_offsets,
        max_seqlen_q=max(segments.lengths),
        max_seqlen_k=segments.longest_keys,
        softmax_scale=scale,
        causal=True,  # aligned at the end: a branch's queries are the last of its keys
        window_size=(-1, -1) if window is None else (window - 1, 0),
    )
    return out


def _attention_of_layer(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: (1, heads, T, D) in, (1, T, H, D) out."""
    if segments is None:
        name = type(module).__name__
        raise ConfigError(f"model: {name} does not hand packing descriptors to its attention")
    unknown = [key for key in ("softcap", "s_aux") if options.get(key) is not None]
    if unknown or options.get("dropout"):
        names = ", ".join(unknown) or "attention dropout"
        raise ConfigError(f"model: packed attention has no {names}, which this model needs")
    out_THD = packed_attention(
        query.squeeze(0).transpose(0, 1),
        key.squeeze(0).transpose(0, 1),
        value.squeeze(0).transpose(0, 1),
        segments,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
    )
    return out_THD.unsqueeze(0), None


AttentionInterface.register(NAME, _attention_of_layer)
