"""A Llama-shaped decoder layer over packed segments, whose last use computes only what is asked.

The layer of Llama, Mistral, Qwen2, Qwen3 and Qwen3-MoE: norm, attention, norm, MLP, each half with
a residual. In a model's last layer the hidden states of prompts are needed no more, only their keys
and values: with `queries`, the layer projects keys and values of all T tokens, and everything else
(queries, attention, output projection, MLP) is of U kept positions. Exact. Of the layer's matrix
products that leaves, at U = T / 10, those of keys and values and a tenth of the others.

Modules are called, never their weights used: under ZeRO-3 a weight is there only while its module
runs, and a call may be that of an adapter.

Shape legend: T tokens, U kept positions, H query heads, K key heads, D head size, R rotary size, M
width of the model.
"""

from dataclasses import dataclass
from typing import Any

import torch

from sumzero.kernels.packed_attention import packed_attention
from sumzero.kernels.rope import rope, rotate
from sumzero.kernels.segments import Segments


@dataclass(frozen=True)
class Queries:
    """What a trimmed layer computes: `kept` (U) positions in the row, in row order.

    They are the last tokens of their segments, as many of each as `segments.queries` says.
    """

    kept: torch.Tensor
    segments: Segments


def decoder_layer(
    layer: Any,
    hidden_1TM: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    segments: Segments,
    queries: Queries | None = None,
) -> torch.Tensor:
    """The layer's hidden states: (1, T, M), or (1, U, M) with `queries`.

    `position_embeddings` are cosine and sine, (1, T, R) each, as transformers makes them.
    """
    attention = layer.self_attn
    normed_1TM = layer.input_layernorm(hidden_1TM)
    asking_1UM, residual_1UM = normed_1TM, hidden_1TM
    if queries is not None:
        asking_1UM, residual_1UM = (
            x.index_select(1, queries.kept) for x in (normed_1TM, hidden_1TM)
        )
    q_UHD = _heads(attention.q_proj(asking_1UM), attention)
    k_TKD = _heads(attention.k_proj(normed_1TM), attention)
    v_TKD = _heads(attention.v_proj(normed_1TM), attention)
    if hasattr(attention, "q_norm"):
        q_UHD, k_TKD = attention.q_norm(q_UHD), attention.k_norm(k_TKD)
    cos_TR, sin_TR = (x.squeeze(0) for x in position_embeddings)
    if queries is None:
        q_UHD, k_TKD = rope(q_UHD, k_TKD, cos_TR, sin_TR)
    else:
        cos_UR, sin_UR = (x.index_select(0, queries.kept) for x in (cos_TR, sin_TR))
        q_UHD, k_TKD = rotate(q_UHD, cos_UR, sin_UR), rotate(k_TKD, cos_TR, sin_TR)
        segments = queries.segments
    attended_UHD = packed_attention(
        *(q_UHD, k_TKD, v_TKD, segments), scale=attention.scaling, window=_window(attention)
    )
    attended_1UM = attention.o_proj(attended_UHD.flatten(1).unsqueeze(0))
    normed_1UM, residual_1UM = layer.post_attention_layernorm(attended_1UM, residual_1UM)
    out_1UM: torch.Tensor = residual_1UM + layer.mlp(normed_1UM)
    return out_1UM


def _heads(projected_1TX: torch.Tensor, attention: Any) -> torch.Tensor:
    """(1, T, heads * D) -> (T, heads, D); the sizes are given, since T may be 0."""
    size = attention.head_dim
    heads: torch.Tensor = projected_1TX.squeeze(0).unflatten(
        -1, (projected_1TX.shape[-1] // size, size)
    )
    return heads


def _window(attention: Any) -> int | None:
    """How far a token sees, where the model limits it."""
    if type(attention).__name__ == "MistralAttention":  # the one that asks its configuration
        attention = attention.config
    window: int | None = getattr(attention, "sliding_window", None)
    return window
