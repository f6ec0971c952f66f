"""Scaled dot-product attention over segments in plain torch: every device, dtype and head size.

Queries are taken in tiles of 128 rows. A tile sees one stretch of the row, or its prefix and one
stretch; its scores are one product, the rest is softmax and another product. Short branches of one
prefix share a tile. Heads that share keys are rows of one product, so keys are never repeated. The
backward pass computes the probabilities again, and adds the gradients of keys and values up in
float32 over all tiles.

Scores are products of float32: rounded to bfloat16, an error of 2^-9 of a score of 10 moves a
probability by 2%. The other products are in the inputs' dtype. docs/kernels.md has what this gives
against torch's scaled_dot_product_attention.

Cost: sum of u * (p + l - u / 2) over the segments: u queries, length l, a prefix of length p.
Memory: one tile of scores, 128 * H * keys.

Shape legend: U queries in all, T tokens, H query heads, K key heads (K divides H), D head size, Q
rows of a tile times H / K, G keys of a tile.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from sumzero.kernels.segments import Segments, sees

_ROWS = 128  # of a tile; docs/kernels.md has 64 and 256


class Tile(NamedTuple):
    """Queries `first` to `last`, the tokens whose keys they see, and what is hidden from them.

    `hidden` (rows, G - column) covers the keys from `column` on; those before it are seen by all.
    """

    first: int
    last: int
    keys: slice | torch.Tensor
    column: int
    hidden: torch.Tensor


def tiles(segments: Segments, window: int | None) -> list[Tile]:
    """The tiles of a batch, for a window."""
    places = segments.places("cpu")
    query_tokens = segments.query_tokens
    found = []
    for begin, end, keys in _runs(segments):
        for first in range(begin, end, _ROWS):
            last = min(first + _ROWS, end)
            query = torch.from_numpy(query_tokens[first:last])
            visible = sees(places, query[:, None], keys, window)
            seen = visible.any(0)
            visible, seen_G = visible[:, seen], keys[seen]
            column = int(visible.all(0).long().cumprod(0).sum())
            start, stop = int(seen_G[0]), int(seen_G[-1]) + 1
            is_stretch = stop - start == len(seen_G)
            found.append(
                Tile(
                    first,
                    last,
                    slice(start, stop) if is_stretch else seen_G.to(segments.device),
                    column,
                    ~visible[:, column:].to(segments.device),
                )
            )
    return found


def _runs(segments: Segments) -> list[tuple[int, int, torch.Tensor]]:
    """Queries that may share tiles, from and to, and all that they see: one segment, or several.

    Neighbours join while they share a prefix and lie within as many tokens as a tile has rows.
    """
    starts, lengths, prefix_of = segments.starts, segments.lengths, segments.prefix_of
    groups: list[list[int]] = []
    for segment, queries in enumerate(segments.queries):
        if not queries:
            continue
        if groups:
            first = groups[-1][0]
            span = starts[segment] + lengths[segment] - starts[first]
            if 0 <= prefix_of[segment] == prefix_of[first] and span <= _ROWS:
                groups[-1].append(segment)
                continue
        groups.append([segment])
    offsets = np.cumsum([0, *segments.queries])
    runs = []
    for group in groups:
        first, last, prefix = group[0], group[-1], prefix_of[group[0]]
        keys = torch.arange(starts[first], starts[last] + lengths[last])
        if prefix >= 0:
            before = torch.arange(starts[prefix], starts[prefix] + lengths[prefix])
            keys = torch.cat([before, keys])
        runs.append((int(offsets[first]), int(offsets[last + 1]), keys))
    return runs


def attend(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """`packed_attention` in tiles: (U, H, D)."""
    out_UHD: torch.Tensor = _Tiled.apply(
        q_UHD, k_TKD, v_TKD, segments.of_window(window, tiles), scale, softcap
    )
    return out_UHD


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_UHD: torch.Tensor,
        k_TKD: torch.Tensor,
        v_TKD: torch.Tensor,
        tiles: list[Tile],
        scale: float,
        softcap: float | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(q_UHD, k_TKD, v_TKD)
        ctx.tiles, ctx.scale, ctx.softcap = tiles, scale, softcap
        key_heads, exact = k_TKD.shape[1], _exact(q_UHD.dtype)
        exact_k_KTD, v_KTD = _heads_first(k_TKD, exact), _heads_first(v_TKD, v_TKD.dtype)
        out_UHD = torch.empty_like(q_UHD, memory_format=torch.contiguous_format)
        for tile in tiles:
            q_KQD = _rows(q_UHD, tile, key_heads)
            scores_KQG = _scores(q_KQD, _keys(exact_k_KTD, tile), scale, softcap)
            weights_KQG = _hide(scores_KQG, tile).softmax(-1).to(q_UHD.dtype)
            _put(out_UHD, tile, torch.bmm(weights_KQG, _keys(v_KTD, tile)))
        return out_UHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_UHD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_UHD, k_TKD, v_TKD = ctx.saved_tensors
        dtype, key_heads, exact = q_UHD.dtype, k_TKD.shape[1], _exact(q_UHD.dtype)
        exact_k_KTD = _heads_first(k_TKD, exact)
        k_KTD, v_KTD = _heads_first(k_TKD, dtype), _heads_first(v_TKD, dtype)
        dq_UHD = torch.empty_like(q_UHD, memory_format=torch.contiguous_format)
        dk_KTD, dv_KTD = torch.zeros_like(exact_k_KTD), torch.zeros_like(exact_k_KTD)
        for tile in ctx.tiles:
            q_KQD, grad_KQD = _rows(q_UHD, tile, key_heads), _rows(grad_UHD, tile, key_heads)
            scores_KQG = _scores(q_KQD, _keys(exact_k_KTD, tile), ctx.scale, ctx.softcap)
            slope_KQG = None
            if ctx.softcap is not None:  # of cap * tanh(score / cap): 1 - tanh(score / cap)^2
                slope_KQG = (1 - (scores_KQG / ctx.softcap).square()).to(dtype)
            weights_KQG = _hide(scores_KQG, tile).softmax(-1).to(dtype)
            _add(dv_KTD, tile, torch.bmm(weights_KQG.transpose(1, 2), grad_KQD))
            ds_KQG = torch.bmm(grad_KQD, _keys(v_KTD, tile).transpose(1, 2))
            # weights * (ds - sum(weights * ds)), in one pass
            ds_KQG = torch.ops.aten._softmax_backward_data(ds_KQG, weights_KQG, -1, dtype)
            if slope_KQG is not None:
                ds_KQG = ds_KQG.mul_(slope_KQG)
            _put(dq_UHD, tile, torch.bmm(ds_KQG, _keys(k_KTD, tile)).mul_(ctx.scale))
            _add(dk_KTD, tile, torch.bmm(ds_KQG.transpose(1, 2), q_KQD))
        dk_TKD, dv_TKD = (x.transpose(0, 1).to(dtype) for x in (dk_KTD.mul_(ctx.scale), dv_KTD))
        return dq_UHD, dk_TKD, dv_TKD, None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _heads_first(x_TKD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x_TKD.transpose(0, 1).to(dtype).contiguous()


def _rows(x_UHD: torch.Tensor, tile: Tile, key_heads: int) -> torch.Tensor:
    """A tile's rows, those of all heads with the same keys one under the other: (K, Q, D)."""
    rows = x_UHD[tile.first : tile.last]
    num_rows, num_heads, size = rows.shape
    grouped = rows.reshape(num_rows, key_heads, num_heads // key_heads, size)
    return grouped.permute(1, 2, 0, 3).reshape(key_heads, -1, size)


def _put(x_UHD: torch.Tensor, tile: Tile, rows_KQD: torch.Tensor) -> None:
    num_rows, (key_heads, _, size) = tile.last - tile.first, rows_KQD.shape
    grouped = rows_KQD.view(key_heads, -1, num_rows, size).permute(2, 0, 1, 3)
    x_UHD[tile.first : tile.last].view(grouped.shape).copy_(grouped)


def _keys(x_KTD: torch.Tensor, tile: Tile) -> torch.Tensor:
    return x_KTD[:, tile.keys]


def _add(x_KTD: torch.Tensor, tile: Tile, more_KGD: torch.Tensor) -> None:
    if isinstance(tile.keys, slice):
        x_KTD[:, tile.keys].add_(more_KGD)
    else:
        x_KTD.index_add_(1, tile.keys, more_KGD.to(x_KTD.dtype))


def _scores(
    q_KQD: torch.Tensor, exact_k_KGD: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    scores_KQG = torch.bmm(q_KQD.to(exact_k_KGD.dtype) * scale, exact_k_KGD.transpose(1, 2))
    if softcap is not None:
        scores_KQG.div_(softcap).tanh_().mul_(softcap)
    return scores_KQG


def _hide(scores_KQG: torch.Tensor, tile: Tile) -> torch.Tensor:
    key_heads, _, num_keys = scores_KQG.shape
    of_heads = scores_KQG.view(key_heads, -1, tile.last - tile.first, num_keys)
    of_heads[..., tile.column :].masked_fill_(tile.hidden, float("-inf"))
    return scores_KQG


def refusal(
    capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, softcap: float | None
) -> str:
    """It can always be used."""
    return ""
