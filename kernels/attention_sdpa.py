"""Packed attention by torch's scaled_dot_product_attention: every device and dtype.

One call a segment, or a few short branches of one prefix. Memory is linear in the keys, but for
masks: queries * keys of each branch, cut window or trimmed segment, made once a batch.

Soft-capped scores, which SDPA has not, are computed plainly, in float32 and a block of queries at a
time; the block is computed again in the backward pass, so that no score is kept.

Shape legend: T tokens, U queries, H query heads, K key heads, D head size, Q queries and G keys of
a call.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from sumzero.kernels.segments import Segments

# Of neighbouring branches. Measured, prefix 1,200 and 40 branches of 40, bfloat16, forward and
# backward: 400 ms one by one, 304 ms at 256, 452 ms all in one. Each call holds the prefix's keys.
_QUERIES_OF_A_CALL = 256
_CAPPED_QUERIES = 256  # of a block


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
    lengths, queries = segments.lengths, segments.queries
    # Split, not sliced: the gradient of a slice is as large as the whole row.
    q = q_UHD.split_with_sizes(list(queries))
    k, v = (x.split_with_sizes(list(lengths)) for x in (k_TKD, v_TKD))
    out = []
    for first, end in segments.once("calls", lambda: list(calls(segments))):
        prefix = segments.prefix_of[first]
        seen = [*([] if prefix < 0 else [prefix]), *range(first, end)]
        mask_QG = segments.once((first, window), partial(_mask, segments, first, end, window))
        q_1HQD = _heads_first([q[segment] for segment in range(first, end)])
        k_1KGD = _heads_first([k[segment] for segment in seen])
        v_1KGD = _heads_first([v[segment] for segment in seen])
        if softcap is not None:
            out_1HQD = _capped(q_1HQD, k_1KGD, v_1KGD, mask_QG, scale, softcap)
        else:
            if mask_QG is not None and q_UHD.is_cuda:  # its kernels that take masks take no groups
                num_groups = q_1HQD.shape[1] // k_1KGD.shape[1]
                k_1KGD, v_1KGD = (x.repeat_interleave(num_groups, 1) for x in (k_1KGD, v_1KGD))
            out_1HQD = F.scaled_dot_product_attention(
                *(q_1HQD, k_1KGD, v_1KGD, mask_QG),
                is_causal=mask_QG is None,
                scale=scale,
                enable_gqa=q_1HQD.shape[1] != k_1KGD.shape[1],
            )
        out.append(out_1HQD.squeeze(0).transpose(0, 1))
    return torch.cat(out)


def calls(segments: Segments) -> Iterator[tuple[int, int]]:
    """The runs of segments, (first, past the last), that are attended to in one call each.

    Neighbouring branches of a prefix share one while they are short; segments that ask nothing are
    left out.
    """
    first = end = queries = 0
    for segment, prefix in enumerate(segments.prefix_of):
        count = segments.queries[segment]
        if not count:
            continue
        joins = queries and end == segment and 0 <= prefix == segments.prefix_of[first]
        if not (joins and queries + count <= _QUERIES_OF_A_CALL):
            if queries:
                yield first, end
            first, queries = segment, 0
        end = segment + 1
        queries += count
    if queries:
        yield first, end


def _heads_first(pieces: list[torch.Tensor]) -> torch.Tensor:
    joined_THD = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return joined_THD.transpose(0, 1).unsqueeze(0)


def _mask(segments: Segments, first: int, end: int, window: int | None) -> torch.Tensor | None:
    """What each query of a call sees, (Q, G); None where plainly causal."""
    lengths, queries = segments.lengths[first:end], segments.queries[first:end]
    prefix, device = segments.prefix_of[first], segments.device
    num_before = 0 if prefix < 0 else segments.lengths[prefix]
    if prefix < 0 and queries == lengths and (window is None or lengths[0] <= window):
        return None
    position_Q = torch.cat(  # behind the prefix
        [torch.arange(n - q, n, device=device) for n, q in zip(lengths, queries, strict=True)]
    )
    own_G = torch.cat([torch.arange(n, device=device) for n in lengths])
    position_G = torch.cat([torch.arange(-num_before, 0, device=device), own_G])
    branch_Q, branch_G = (
        torch.repeat_interleave(torch.arange(len(x), device=device), torch.tensor(x, device=device))
        for x in (queries, lengths)
    )
    mask_QG = position_G <= position_Q[:, None]
    mask_QG[:, num_before:] &= branch_G == branch_Q[:, None]
    if window is not None:
        mask_QG &= position_G > position_Q[:, None] - window
    return mask_QG


def _capped(
    q_1HQD: torch.Tensor,
    k_1KGD: torch.Tensor,
    v_1KGD: torch.Tensor,
    mask_QG: torch.Tensor | None,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    if mask_QG is None:
        ones_QG = torch.ones(q_1HQD.shape[2], k_1KGD.shape[2], dtype=torch.bool)
        mask_QG = ones_QG.tril_().to(q_1HQD.device)
    num_groups = q_1HQD.shape[1] // k_1KGD.shape[1]
    k_1HGD, v_1HGD = (x.repeat_interleave(num_groups, 1) for x in (k_1KGD, v_1KGD))
    blocks = [
        checkpoint(
            *(_capped_block, q_part, k_1HGD, v_1HGD, mask_part, scale, softcap),
            use_reentrant=False,
        )
        for q_part, mask_part in zip(
            q_1HQD.split(_CAPPED_QUERIES, 2), mask_QG.split(_CAPPED_QUERIES), strict=True
        )
    ]
    return torch.cat(blocks, 2)


def _capped_block(
    q_1HQD: torch.Tensor,
    k_1HGD: torch.Tensor,
    v_1HGD: torch.Tensor,
    mask_QG: torch.Tensor,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    wide = torch.promote_types(q_1HQD.dtype, torch.float32)
    scores_1HQG = (q_1HQD.to(wide) @ k_1HGD.to(wide).transpose(2, 3)) * (scale / softcap)
    scores_1HQG = (torch.tanh(scores_1HQG) * softcap).masked_fill(~mask_QG, float("-inf"))
    return (scores_1HQG.softmax(-1) @ v_1HGD.to(wide)).to(q_1HQD.dtype)
