"""The training loss: weighted cross-entropy over the supervised positions of a packed batch.

It is the model's LM head that computes it: the module which holds the weight, so that ZeRO-3
gathers the weight when the head runs, once forward and once backward, however many supervised
positions a rank has. Logits are made for supervised positions only (3 to 10% of a summarization
batch), a tile at a time.

The sum is over this rank's batch; the engine divides by the step's global normaliser, the sum of
all ranks' weights, which the plan knows: the number of supervised tokens (`train.loss_weight =
"token"`) or of targets ("target"). So the result depends neither on packing, nor on which targets
share a document, nor on ranks, nor on accumulation.

Shape legend: S supervised positions, M width of the model, V vocabulary.
"""

from typing import Any

import torch
from torch import nn

from sumzero.errors import ConfigError
from sumzero.kernels.linear_cross_entropy import linear_cross_entropy


class SupervisedHead(nn.Linear):
    """An LM head that gives the summed loss where it is handed labels, else logits.

    Logits are softcap * tanh(scale * (h W^T + b) / softcap), without the tanh where the model has
    no softcap.
    """

    scale: float
    softcap: float | None

    @classmethod
    def of(
        cls, head: nn.Module, scale: float = 1.0, softcap: float | None = None
    ) -> "SupervisedHead":
        """A head that shares `head`'s parameters. Raises ConfigError where it is not linear."""
        if not isinstance(head, nn.Linear):
            name = type(head).__name__
            raise ConfigError(f"model: its LM head is a {name}; the loss needs a linear one")
        ours = cls(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        ours.weight, ours.bias = head.weight, head.bias
        ours.scale, ours.softcap = scale, softcap
        return ours

    def forward(
        self,
        hidden_SM: torch.Tensor,
        labels_S: torch.Tensor | None = None,
        weights_S: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Sum of -weight * log p(label), float32 or float64, a scalar.

        Without a supervised position it is 0, connected to the graph: backward runs the same
        collectives as any other. Without labels it is the linear layer that transformers expects:
        its output (S, V) neither scaled nor capped.
        """
        if labels_S is None or weights_S is None:
            return super().forward(hidden_SM)
        return linear_cross_entropy(
            *(hidden_SM, self.weight, labels_S, weights_S),
            bias_V=self.bias,
            scale=self.scale,
            softcap=self.softcap,
        )

    def logits(self, hidden_SM: torch.Tensor) -> torch.Tensor:
        """The logits that the loss is of: (S, V)."""
        logits_SV: torch.Tensor = self(hidden_SM) * self.scale
        if self.softcap is None:
            return logits_SV
        return self.softcap * torch.tanh(logits_SV / self.softcap)


def logit_scale(config: Any) -> float:
    """What a model multiplies its logits with: Granite divides them, Cohere multiplies."""
    return float(getattr(config, "logit_scale", 1.0)) / float(
        getattr(config, "logits_scaling", 1.0)
    )
