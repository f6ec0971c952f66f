"""Attention over segments by FlexAttention: shared prefixes on a GPU, with no copy of their keys.

One compiled kernel a layer. Who sees whom is `segments.sees`; a block mask, built once a batch,
names the blocks of 128 queries by 128 keys that hold anything to see, and those seen whole, where
the rule need not be asked. It is built on the device in bands of 1,024 queries: create_block_mask
evaluates the rule for all pairs at once, in memory that is quadratic in the tokens.

FlexAttention has no backward on CPU. Heads of at least 16; every dtype; windows; soft-capping.

Cost: the blocks that hold anything to see. Memory is linear in the tokens.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from sumzero.kernels.segments import Segments, sees

_BLOCK = 128
_BAND = 8 * _BLOCK
# Left to choose, torch takes its decoding kernel for fewer than 128 queries, which has no float32
# (torch 2.11: "No choices exist for backend").
_KERNEL = {"BACKEND": "TRITON"}


def attend(
    q_UHD: torch.Tensor,
    k_TKD: torch.Tensor,
    v_TKD: torch.Tensor,
    segments: Segments,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """`packed_attention` on FlexAttention: (U, H, D)."""
    run: Any = _compiled() if q_UHD.is_cuda else flex_attention
    out_1HUD: torch.Tensor = run(
        *(x.transpose(0, 1).unsqueeze(0) for x in (q_UHD, k_TKD, v_TKD)),
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=segments.of_window(window, block_mask),
        scale=scale,
        enable_gqa=q_UHD.shape[1] != k_TKD.shape[1],
        kernel_options=_KERNEL,
    )
    return out_1HUD.squeeze(0).transpose(0, 1)


@cache
def _compiled() -> Callable[..., Any]:
    # Lengths differ from batch to batch. A kernel for any length is compiled at the second one, for
    # each of: gradients or none, all tokens as queries or fewer. The usual limit of 8 versions is
    # soon reached, and torch then raises.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(flex_attention, fullgraph=True)


@cache
def _capped(softcap: float) -> Callable[..., torch.Tensor]:
    def score_mod(
        score: torch.Tensor, b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return score_mod


def block_mask(segments: Segments, window: int | None) -> BlockMask:
    """The blocks that hold anything to see, and those that are seen whole."""
    places = segments.places(segments.device)
    query_U = torch.from_numpy(segments.query_tokens).to(segments.device)
    # A tensor: a number would be compiled in, and each model's windows would cost a kernel.
    limit = torch.tensor(segments.num_tokens if window is None else window, device=segments.device)
    num_queries, num_tokens = segments.num_queries, segments.num_tokens

    def mask_mod(
        b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return sees(places, query_U[query], key, limit)

    key_T = torch.arange(num_tokens, device=segments.device)
    bands = [
        _counts(sees(places, query_U[first : first + _BAND, None], key_T, limit))
        for first in range(0, num_queries, _BAND)
    ]
    seen = torch.cat(bands)  # in each block, the pairs that see each other
    is_full = seen == _BLOCK * _BLOCK
    some, some_index = _listed((seen > 0) & ~is_full)
    full, full_index = _listed(is_full)
    return BlockMask.from_kv_blocks(
        some,
        some_index,
        full,
        full_index,
        BLOCK_SIZE=_BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(num_queries, num_tokens),
    )


def _counts(seen_UT: torch.Tensor) -> torch.Tensor:
    num_queries, num_tokens = seen_UT.shape
    padded = F.pad(seen_UT, (0, -num_tokens % _BLOCK, 0, -num_queries % _BLOCK))
    rows, columns = (length // _BLOCK for length in padded.shape)
    return padded.view(rows, _BLOCK, columns, _BLOCK).sum((1, 3))


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of each row are set, and which, first: FlexAttention's form."""
    index = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], index.int()[None, None]


def refusal(
    capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, softcap: float | None
) -> str:
    """Why it cannot be used on a GPU of that compute capability (None: no GPU), or ""."""
    if capability is None:
        return "it runs on CUDA (FlexAttention has no backward on CPU)"
    if capability < (7, 5):
        return f"it needs compute capability 7.5, the GPU has {capability[0]}.{capability[1]}"
    if head_size < 16:
        return f"it takes heads of at least 16, the model's are {head_size}"
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    return ""
