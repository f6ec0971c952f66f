"""The training loss: cross-entropy summed over the supervised positions of a packed batch.

The LM head and the softmax run on supervised positions only (3 to 10% of a summarization batch), in
float32. The sum is over this rank's batch; the engine divides by the step's global count, which the
plan knows, so the result depends neither on packing nor on ranks nor on accumulation.
"""

import torch
import torch.nn.functional as F

from sumzero.kernels.packed_attention import Segments
from sumzero.train.batches import Batch


def summed_loss(model: torch.nn.Module, batch: Batch, backend: str) -> torch.Tensor:
    """Sum of -log p(label) over the batch's supervised positions, a float32 scalar.

    A batch with no supervised position gives 0, connected to the graph: its backward runs the same
    collectives as any other.
    """
    device = next(model.parameters()).device
    logits_SV = packed_logits(model, batch, backend)
    labels_S = batch.labels.to(device, non_blocking=True)
    return F.cross_entropy(logits_SV.float(), labels_S, reduction="sum")


def packed_logits(model: torch.nn.Module, batch: Batch, backend: str) -> torch.Tensor:
    """Logits at the batch's supervised positions: (S, V)."""
    device = next(model.parameters()).device
    output = model(
        input_ids=batch.input_ids.to(device, non_blocking=True),
        position_ids=batch.position_ids.to(device, non_blocking=True),
        logits_to_keep=batch.positions.to(device, non_blocking=True),
        segments=Segments.of(batch.lengths, device, backend),
        use_cache=False,
    )
    logits: torch.Tensor = output.logits
    return logits.squeeze(0)
