"""Cross-entropy of one tile of logits, and its gradient written over the logits.

    c = softcap * tanh(scale * x / softcap)      (c = scale * x where there is no softcap)
    loss = weight * (logsumexp(c) - c[label])
    d loss / d x = weight * (softmax(c) - onehot(label)) * scale * (1 - (c / softcap) ** 2)

All of it in float32 (float64 where the logits are), whatever dtype the logits have: a Triton kernel
on CUDA (cross_entropy_triton.py), which holds a block of one row in registers; elsewhere plain
torch, a few rows at a time, so that their float32 copy stays in the cache.

Cost: on CUDA the logits are read twice and written once, and no memory is needed beside them. On
CPU they are read and written once, beside _BYTES_AT_A_TIME of copies.

Shape legend: S rows (supervised positions), V vocabulary, R rows at a time.
"""

import torch

# Measured at vocabulary 151,936, docs/kernels.md: 6 rows are faster than 1 and than all.
_BYTES_AT_A_TIME = 4 * 2**20


def cross_entropy_tile(
    logits_SV: torch.Tensor,
    labels_S: torch.Tensor,
    weights_S: torch.Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    gradient: bool = True,
) -> torch.Tensor:
    """The weighted loss of each row, (S), float32 (float64 where the logits are).

    With `gradient`, the logits, whose rows must be contiguous, are overwritten by the gradient of
    the sum of the losses with respect to them; without, they stay as they are.
    """
    if logits_SV.is_cuda:
        from sumzero.kernels.cross_entropy_triton import launch

        return launch(logits_SV, labels_S, weights_S, scale, softcap, gradient)
    wide = torch.promote_types(logits_SV.dtype, torch.float32)
    weights_S = weights_S.to(wide)
    losses_S = torch.empty(len(logits_SV), dtype=wide, device=logits_SV.device)
    copies = 1 if softcap is None else 2
    rows = max(1, _BYTES_AT_A_TIME // (copies * max(1, logits_SV.shape[1]) * wide.itemsize))
    copy_RV = logits_SV.new_empty(min(rows, len(logits_SV)), logits_SV.shape[1], dtype=wide)
    for first in range(0, len(logits_SV), rows):
        some = slice(first, first + rows)
        x_RV = copy_RV[: len(logits_SV[some])].copy_(logits_SV[some])
        index_R1, weight_R1 = labels_S[some, None], weights_S[some, None]
        if scale != 1:
            x_RV.mul_(scale)
        slope_RV = None
        if softcap is not None:
            slope_RV = x_RV.div_(softcap).tanh_().square().neg_().add_(1)
            x_RV.mul_(softcap)
        label_R1 = x_RV.gather(1, index_R1) - x_RV.amax(1, keepdim=True)
        p_RV = torch.softmax(x_RV, 1, out=x_RV)
        # The largest p is 1 / sum(exp(c - the largest c)): that sum, without a sweep of exp.
        losses_S[some] = (-weight_R1 * (p_RV.amax(1, keepdim=True).log() + label_R1)).squeeze(1)
        if gradient:
            p_RV.mul_(weight_R1 * scale)
            p_RV.scatter_add_(1, index_R1, -scale * weight_R1)
            if slope_RV is not None:
                p_RV.mul_(slope_RV)
            logits_SV[some] = p_RV
    return losses_S
