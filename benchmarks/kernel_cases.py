"""What bench_kernels.py measures: each kernel beside the same computation of torch and of Liger.

Shapes are those of Qwen3 0.6B, 1.7B and 8B, told by their hidden size; all tensors are bfloat16.
Liger's kernels are its defaults, in Triton. Some write over their arguments (rope in the forward
pass, swiglu, both norms and the loss in the backward pass), so inputs are made anew for every run.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm, apply_rotary_pos_emb

from sumzero.kernels.linear_cross_entropy import linear_cross_entropy
from sumzero.kernels.packed_attention import choose_backends, packed_attention
from sumzero.kernels.rms_norm import add_rms_norm, rms_norm
from sumzero.kernels.rope import rope
from sumzero.kernels.segments import Segments
from sumzero.kernels.swiglu import swiglu

EPS, HEAD_SIZE, KEY_HEADS = 1e-6, 128, 8
Function = Callable[..., Any]


@dataclass
class Case:
    """One kernel at one shape; forward and backward do `work`, in bytes moved or operations.

    `inputs` get gradients; `ours` and its peers take them and give a tensor or several, the same
    ones. A peer that cannot be measured is told by the reason.
    """

    name: str
    inputs: list[torch.Tensor]
    ours: Function
    peers: dict[str, Function | str]
    work: float
    unit: str  # GB/s or TFLOP/s
    goal: float = 1.0  # times as fast as Liger, at least
    memory: bool = False  # whether the goal speaks of peak memory too


def cases(
    device: torch.device, hidden: int, tokens: int, vocabulary: int, liger: Any
) -> Iterator[Case]:
    """All kernels at a hidden size; `liger` is its module of functions, or None."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(shape, device=device, generator=draw, dtype=torch.bfloat16) * scale
        return x.requires_grad_()

    heads = max(16, hidden // HEAD_SIZE)
    yield from _norms(normal, hidden, tokens, heads, liger)
    yield from _elementwise(normal, device, hidden, tokens, heads, liger)
    yield from _attention(normal, device, tokens, heads)
    for share in (0.1, 1.0):
        yield _loss(normal, device, hidden, tokens, vocabulary, share, liger)


def _peers(eager: Function, liger: Function | None) -> dict[str, Function | str]:
    """Those of a kernel that torch.compile makes out of the eager function."""
    can_compile = torch.cuda.is_available() or shutil.which(os.environ.get("CXX", "g++"))
    return {
        "torch eager": eager,
        "torch.compile": torch.compile(eager, dynamic=False) if can_compile else "no C++ compiler",
        "Liger": liger or "no CUDA device",
    }


def _norms(normal: Function, hidden: int, tokens: int, heads: int, liger: Any) -> Iterator[Case]:
    def module(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return Qwen3RMSNorm.forward(_Norm(weight), x)

    for shape in ((tokens, hidden), (tokens, heads, HEAD_SIZE)):
        yield Case(
            f"rms_norm {_said(shape)}",
            [normal(*shape), normal(shape[-1])],
            lambda x, weight: rms_norm(x, weight, EPS),
            _peers(module, liger and (lambda x, weight: liger.liger_rms_norm(x, weight, EPS))),
            work=5 * 2 * torch.Size(shape).numel(),
            unit="GB/s",
        )
    yield Case(
        f"add_rms_norm {tokens}x{hidden}",
        [normal(tokens, hidden), normal(tokens, hidden), normal(hidden)],
        lambda x, residual, weight: add_rms_norm(x, residual, weight, EPS),
        _peers(
            lambda x, residual, weight: (module(x + residual, weight), x + residual),
            liger and (lambda x, residual, w: liger.liger_fused_add_rms_norm(x, residual, w, EPS)),
        ),
        work=8 * 2 * tokens * hidden,
        unit="GB/s",
    )


@dataclass
class _Norm:
    """What transformers' forward reads of its module."""

    weight: torch.Tensor
    variance_epsilon: float = EPS


def _elementwise(
    normal: Function, device: torch.device, hidden: int, tokens: int, heads: int, liger: Any
) -> Iterator[Case]:
    angle = torch.rand(tokens, HEAD_SIZE // 2, device=device).repeat(1, 2) * 100
    cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()

    def as_in_models(function: Function) -> Function:
        def turned(q: torch.Tensor, k: torch.Tensor) -> list[torch.Tensor]:
            by_heads = (x[None].transpose(1, 2) for x in (q, k))
            return [x.transpose(1, 2)[0] for x in function(*by_heads, cos[None], sin[None])]

        return turned

    yield Case(
        f"rope {tokens}x({heads}+{KEY_HEADS})x{HEAD_SIZE}",
        [normal(tokens, heads, HEAD_SIZE), normal(tokens, KEY_HEADS, HEAD_SIZE)],
        lambda q, k: rope(q, k, cos, sin),
        _peers(as_in_models(apply_rotary_pos_emb), liger and as_in_models(liger.liger_rope)),
        work=4 * 2 * tokens * (heads + KEY_HEADS) * HEAD_SIZE,
        unit="GB/s",
    )
    yield Case(
        f"swiglu {tokens}x{3 * hidden}",
        [normal(tokens, 3 * hidden), normal(tokens, 3 * hidden)],
        swiglu,
        _peers(lambda gate, up: F.silu(gate) * up, liger and liger.liger_swiglu),
        work=8 * 2 * tokens * 3 * hidden,
        unit="GB/s",
    )


def _attention(normal: Function, device: torch.device, tokens: int, heads: int) -> Iterator[Case]:
    """Documents of tokens / 8 and less; then families of a document and five short targets.

    Eager is what transformers does with packed rows by default: SDPA with a mask of all pairs.
    """
    backends = choose_backends(device, torch.bfloat16, HEAD_SIZE)
    document = tokens // 8
    several = [document, document // 2, document // 4, document // 4] * 4
    prefix, branch = tokens // 5 * 3 // 4, tokens // 5 // 20
    layouts: dict[str, tuple[list[int], list[int]]] = {
        "plain": (several, [-1] * len(several)),
        "shared": ([prefix, *[branch] * 5] * 5, [i for n in range(5) for i in (-1, *[6 * n] * 5)]),
    }
    for name, (lengths, prefix_of) in layouts.items():
        segments = Segments.of(lengths, device, backends, prefix_of)
        mask = _mask(lengths, prefix_of).to(device)

        def ours(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments = segments
        ) -> torch.Tensor:
            return packed_attention(q, k, v, segments, scale=HEAD_SIZE**-0.5)

        def eager(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor = mask
        ) -> torch.Tensor:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
            by_heads = (x[None].transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(*by_heads, mask).transpose(1, 2)[0]

        rows = sum(lengths)
        yield Case(
            f"packed_attention {name} {rows}x({heads}+{KEY_HEADS})x{HEAD_SIZE}, {segments.backend}",
            [normal(rows, heads, HEAD_SIZE), *(normal(rows, 8, HEAD_SIZE) for _ in range(2))],
            ours,
            {
                "torch eager": eager,
                "torch.compile": _flex(lengths, prefix_of, device),
                "Liger": "it has no such kernel",
            },
            work=14 * heads * HEAD_SIZE * int(mask.sum()),  # 2 products forward, 5 backward
            unit="TFLOP/s",
        )


def _flex(lengths: Sequence[int], prefix_of: Sequence[int], device: torch.device) -> Function | str:
    """What torch.compile has for attention with a mask."""
    if device.type != "cuda":
        return "FlexAttention has no backward on CPU"
    mask = _mask(lengths, prefix_of).to(device)
    blocks = create_block_mask(
        lambda b, h, query, key: mask[query, key], None, None, *mask.shape, device=device
    )

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        by_heads = (x[None].transpose(1, 2) for x in (q, k, v))
        out: Any = flex_attention(*by_heads, block_mask=blocks, enable_gqa=True)
        return out.transpose(1, 2)[0]

    return torch.compile(attend, dynamic=False)


def _mask(lengths: Sequence[int], prefix_of: Sequence[int]) -> torch.Tensor:
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    prefix = torch.tensor(prefix_of)[segment]
    same = (segment[:, None] == segment).tril()
    return same | (prefix[:, None] == segment)


def _loss(
    normal: Function,
    device: torch.device,
    hidden: int,
    tokens: int,
    vocabulary: int,
    share: float,
    liger: Any,
) -> Case:
    """The others are handed all rows, with the label -100 where there is no loss."""
    supervised = torch.arange(0, tokens, round(1 / share), device=device)
    labels = torch.randint(vocabulary, (tokens,), device=device)
    masked = torch.full_like(labels, -100).index_copy(0, supervised, labels[supervised])
    weights = torch.ones(len(supervised), device=device)

    def ours(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(x[supervised], weight, labels[supervised], weights)

    def eager(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(x, weight).float(), masked, reduction="sum")

    def fused(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        loss = liger.liger_fused_linear_cross_entropy(x, weight, masked, reduction="sum")
        assert isinstance(loss, torch.Tensor)
        return loss

    return Case(
        f"linear_cross_entropy {tokens}x{hidden}x{vocabulary}, {share:.0%} supervised",
        [normal(tokens, hidden), normal(vocabulary, hidden, scale=hidden**-0.5)],
        ours,
        _peers(eager, liger and fused),
        work=6 * len(supervised) * hidden * vocabulary,
        unit="TFLOP/s",
        goal=2.0 if share < 1 else 1.0,
        memory=True,
    )


def _said(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
