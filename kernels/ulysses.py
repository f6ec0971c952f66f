"""A packed row over several ranks: each has some of its tokens, and attends all with some heads.

Before attention, rank r of R holds the r-th part of the row's tokens, of all heads; an all-to-all
gives it all tokens of the r-th part of the heads, and a second one its own tokens of all heads
back. So attention sees whole rows, whatever they hold, and everything else of a model, which is
done token by token, is divided by R.

Queries, keys and values go together: one collective before attention, one after it, and the same
two in the backward pass, each the reverse of the other. Key heads are repeated where R does not
divide them, as few times as make them divisible.

Cost: of P = T / R tokens, P (H + 2 L) D (R - 1) / R elements leave a rank before attention, and
P H D (R - 1) / R after it, L being the key heads after repetition; no token waits for another rank
elsewhere.

Jacobs et al., "DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme Long
Sequence Transformer Models", 2023, arXiv:2309.14509.
Shape legend: R ranks, T tokens of the row, P of a rank's part (T = R P), H query heads, K key heads
(K divides H), L key heads after repetition, J heads of a rank's share, D head size.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from sumzero.errors import ConfigError


def whole_row(
    q_PHD: torch.Tensor, k_PKD: torch.Tensor, v_PKD: torch.Tensor, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of all tokens, of this rank's share of the heads.

    They are (T, H / R, D) and twice (T, L / R, D). The parts lie in the row in the order of the
    group's ranks, and all have P tokens. Raises ConfigError where R does not divide H.
    """
    ranks, heads, key_heads = dist.get_world_size(group), q_PHD.shape[1], k_PKD.shape[1]
    if heads % ranks:
        raise ConfigError(
            f"train.sequence_parallel = {ranks} does not divide the {heads} attention heads of a "
            "layer"
        )
    copies = math.lcm(key_heads, ranks) // key_heads
    if copies > 1:
        k_PKD, v_PKD = (x.repeat_interleave(copies, dim=1) for x in (k_PKD, v_PKD))
    shares = [x.unflatten(1, (ranks, -1)).transpose(0, 1) for x in (q_PHD, k_PKD, v_PKD)]
    row_TJD = _exchange(torch.cat(shares, dim=2), group).flatten(0, 1)
    q_TJD, k_TJD, v_TJD = row_TJD.split([x.shape[2] for x in shares], dim=1)
    return q_TJD, k_TJD, v_TJD


def own_part(out_TJD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """This rank's tokens of all query heads, from all tokens of its share of them: (P, H, D)."""
    ranks = dist.get_world_size(group)
    of_rank_RPJD = _exchange(out_TJD.unflatten(0, (ranks, -1)), group)
    return of_rank_RPJD.transpose(0, 1).flatten(1, 2)


def _exchange(x_RPJD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    out_RPJD: torch.Tensor = _Exchange.apply(x_RPJD, group)
    return out_RPJD


class _Exchange(torch.autograd.Function):
    """The i-th block goes to rank i, which has it in the sender's place: its own inverse."""

    @staticmethod
    def forward(ctx: Any, x_RPJD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _exchanged(x_RPJD, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RPJD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchanged(grad_RPJD, ctx.group), None


def _exchanged(x_RPJD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    sent = x_RPJD.contiguous()
    found = torch.empty_like(sent)
    dist.all_to_all_single(found, sent, group=group)
    return found
