"""SwiGLU: silu(gate) * up, elementwise."""

import torch
import torch.nn.functional as F


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, where silu(x) = x / (1 + exp(-x)): the shape and dtype of gate, (..., I)."""
    return F.silu(gate) * up
