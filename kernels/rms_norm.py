"""RMSNorm, alone and behind a residual addition: x / rms(x) * (offset + weight) over the last axis."""

import torch


def rms_norm(
    x: torch.Tensor, weight_D: torch.Tensor, eps: float, offset: float = 0.0
) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * (offset + weight): the shape and dtype of x, (..., D).

    The root mean square is in float32. `offset` is 0 for Llama's norm, 1 for Gemma's.
    """
    x_hat = x.float()
    x_hat = x_hat * torch.rsqrt(x_hat.pow(2).mean(-1, keepdim=True) + eps)
    if offset == 0.0:  # Llama's order of rounding; Gemma rounds once, at the end
        return weight_D * x_hat.to(x.dtype)
    return (x_hat * (offset + weight_D.float())).to(x.dtype)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight_D: torch.Tensor, eps: float, offset: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x + residual, and x + residual: each of the shape and dtype of x, (..., D)."""
    added = residual + x
    return rms_norm(added, weight_D, eps, offset), added
