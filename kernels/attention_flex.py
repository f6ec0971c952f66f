"""Packed attention by FlexAttention: a mask over blocks says which segments see each other.

A prefix's keys are read where they lie, by all of its branches at once: nothing is gathered. The
block mask is made once a batch and window, on the device. CUDA, compiled by Triton; on CPU
FlexAttention has no backward pass (NotImplementedError), and the forward pass is for tests.

Shape legend: T tokens, U queries, H query heads, K key heads, D head size.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from sumzero.kernels.segments import Segments


def attend(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of the queries: (U, H, D)."""
    block_mask = segments.once(("flex", window), lambda: _block_mask(segments, window))
    q_1HUD, k_1KTD, v_1KTD = (x.transpose(0, 1).unsqueeze(0) for x in (q_UHD, k_TKD, v_TKD))
    score_mod = None if softcap is None else _capped(softcap)
    run: Any = _compiled(flex_attention) if q_UHD.is_cuda else flex_attention
    out_1HUD: torch.Tensor = run(
        *(q_1HUD, k_1KTD, v_1KTD),
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=q_UHD.shape[1] != k_TKD.shape[1],
    )
    return out_1HUD.squeeze(0).transpose(0, 1)


def _block_mask(segments: Segments, window: int | None) -> BlockMask:
    lengths, queries, prefix_of = (
        np.array(x) for x in (segments.lengths, segments.queries, segments.prefix_of)
    )
    ends = np.cumsum(lengths)
    starts = np.where(prefix_of < 0, 0, lengths[prefix_of])  # positions continue from the prefix
    segment_T = np.repeat(np.arange(len(lengths)), lengths)
    position_T = np.arange(ends[-1]) - np.repeat(ends - lengths - starts, lengths)
    rows_U = np.flatnonzero(np.arange(ends[-1]) >= np.repeat(ends - queries, lengths))
    of_T, at_T, of_U, at_U, before_U = (
        torch.from_numpy(x).to(segments.device, non_blocking=True)
        for x in (
            *(segment_T, position_T),
            *(segment_T[rows_U], position_T[rows_U], prefix_of[segment_T[rows_U]]),
        )
    )

    def sees(_: Any, __: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        distance = at_U[query] - at_T[key]
        own = (of_U[query] == of_T[key]) & (distance >= 0)
        allowed = own | (before_U[query] == of_T[key])
        return allowed if window is None else allowed & (distance < window)

    make = _compiled(create_block_mask) if segments.device.type == "cuda" else create_block_mask
    made: BlockMask = make(sees, None, None, len(rows_U), len(segment_T), segments.device)
    return made


def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def cap(score: torch.Tensor, *_: Any) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


@lru_cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # Lengths differ from row to row: without `dynamic` each would be compiled.
    return torch.compile(function, dynamic=True)
