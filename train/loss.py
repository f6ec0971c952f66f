"""The training loss: weighted cross-entropy over the supervised positions of a packed batch.

The LM head and the softmax run on supervised positions only (3 to 10% of a summarization batch), in
float32. The sum is over this rank's batch; the engine divides by the step's global normaliser, the
sum of all ranks' weights, which the plan knows: the number of supervised tokens (`train.loss_weight
= "token"`) or of targets ("target"). So the result depends neither on packing, nor on which targets
share a document, nor on ranks, nor on accumulation.
"""

import torch
import torch.nn.functional as F

from sumzero.kernels.segments import Backends, Segments
from sumzero.train.batches import Batch


def summed_loss(model: torch.nn.Module, batch: Batch, backends: Backends) -> torch.Tensor:
    """Sum of -weight * log p(label) over the batch's supervised positions, a scalar.

    It is float32, or float64 where the model is. A batch with no supervised position gives 0,
    connected to the graph: its backward runs the same collectives as any other.
    """
    logits_SV = packed_logits(model, batch, backends)
    if logits_SV.dtype != torch.float64:
        logits_SV = logits_SV.float()
    labels_S = batch.labels.to(logits_SV.device, non_blocking=True)
    if bool((batch.weights == 1).all()):  # on the host: no synchronisation
        return F.cross_entropy(logits_SV, labels_S, reduction="sum")
    weights_S = batch.weights.to(logits_SV, non_blocking=True)
    return torch.dot(F.cross_entropy(logits_SV, labels_S, reduction="none"), weights_S)


def packed_logits(model: torch.nn.Module, batch: Batch, backends: Backends) -> torch.Tensor:
    """Logits at the batch's supervised positions: (S, V)."""
    device = next(model.parameters()).device
    output = model(
        input_ids=batch.input_ids.to(device, non_blocking=True),
        position_ids=batch.position_ids.to(device, non_blocking=True),
        logits_to_keep=batch.positions.to(device, non_blocking=True),
        segments=Segments.of(batch.lengths, device, backends, batch.prefix_of),
        use_cache=False,
    )
    logits: torch.Tensor = output.logits
    return logits.squeeze(0)
