"""A causal LM as it is trained: a packed batch in, its summed loss out.

The decoder runs over the packed row; the LM head over its supervised positions only (`loss`). In
models whose layers `kernels.patch` knows, the last layer too computes no more than these positions
need. How often a parameter's module runs does not depend on the batch, so under ZeRO-3 all ranks
run the same collectives (but for models that hold experts as modules and call those chosen).

Where ranks share a bin (`train.sequence_parallel`), each runs its part of the row, and the last
layer all of it.

Shape legend: N segments of the row, S supervised positions, U positions kept by the last layer, M
width of the model, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from sumzero.kernels.decoder_layer import Queries
from sumzero.kernels.patch import patch
from sumzero.kernels.segments import Backends, Segments
from sumzero.train.batches import Batch
from sumzero.train.loss import SupervisedHead, logit_scale
from sumzero.train.sequence_parallel import SequenceGroup

PREFIX = "lm."  # of every parameter's name in checkpoints


class SupervisedLM(nn.Module):
    """Wraps `lm`: its head becomes a SupervisedHead, its layers are patched unless `fused` is off.

    `group` are the ranks that share each bin. Raises ConfigError where its head is not linear or a
    layer needs what we have not.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        backends: Backends,
        *,
        fused: bool = True,
        group: SequenceGroup | None = None,
    ) -> None:
        super().__init__()
        config = lm.config.get_text_config()
        softcap = getattr(config, "final_logit_softcapping", None)
        head = SupervisedHead.of(lm.get_output_embeddings(), logit_scale(config), softcap)
        lm.set_output_embeddings(head)
        self.lm = lm
        self._backends = backends
        self._fused = fused
        self._group = group
        self._patch = patch(lm) if fused else None

    def forward(
        self, batch: Batch, want: Literal["loss", "logits", "reference"] = "loss"
    ) -> torch.Tensor:
        """Sum of -weight * log p(label) over the batch's supervised positions, a scalar.

        It is float32, or float64 where the model is; of ranks that share the bin and are all given
        it whole, each has the sum over its part. With `want` "logits" those of the supervised
        positions, (S, V); "reference" the same from transformers' own layers and head, and the
        attention that every device has. All ranks ask for the same.
        """
        if want == "reference":
            return self._reference(batch)
        held = batch if self._group is None else self._group.part(batch)
        head: Any = self.lm.get_output_embeddings()
        hidden_SM = self._hidden(held)
        if want == "logits":
            logits_SV: torch.Tensor = head.logits(hidden_SM)
            return logits_SV if self._group is None else self._group.whole(logits_SV, batch)
        labels_S, weights_S = (
            x.to(hidden_SM.device, non_blocking=True) for x in (held.labels, held.weights)
        )
        loss: torch.Tensor = head(hidden_SM, labels_S, weights_S)
        return loss

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """The last hidden states at the supervised positions: (S, M)."""
        device = self.lm.device
        segments = self._segments(batch, self._backends)
        if self._group is not None:
            segments = replace(segments, ranks=self._group.ranks)
        options: dict[str, Any] = {"segments": segments}
        rows_S = batch.positions
        if self._patch is not None and self._patch.trims and self._group is None:
            queries, kept_U, rows = last_queries(batch.lengths, batch.positions.numpy())
            rows_S = torch.from_numpy(rows)
            options["queries"] = Queries(
                torch.from_numpy(kept_U).to(device, non_blocking=True),
                self._segments(batch, self._backends, queries),
            )
        hidden_1UM: torch.Tensor = self.lm.base_model(
            **self._inputs(batch), **options
        ).last_hidden_state
        return hidden_1UM.squeeze(0).index_select(0, rows_S.to(device, non_blocking=True))

    def _reference(self, batch: Batch) -> torch.Tensor:
        if self._patch is not None:
            self._patch.undo()
        try:
            logits: torch.Tensor = self.lm(
                **self._inputs(batch),
                logits_to_keep=batch.positions.to(self.lm.device),
                segments=self._segments(batch, Backends("sdpa", "sdpa")),
            ).logits
        finally:
            self._patch = patch(self.lm) if self._fused else None
        return logits.squeeze(0)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        device = self.lm.device
        return {
            "input_ids": batch.input_ids.to(device, non_blocking=True),
            "position_ids": batch.position_ids.to(device, non_blocking=True),
            "use_cache": False,
        }

    def _segments(
        self, batch: Batch, backends: Backends, queries: Sequence[int] | None = None
    ) -> Segments:
        return Segments.of(batch.lengths, self.lm.device, backends, batch.prefix_of, queries)


def last_queries(
    lengths: Sequence[int], positions_S: NDArray[np.int64]
) -> tuple[tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]:
    """What the last layer keeps of a row: of each segment the tokens from its first supervised one.

    Returns how many of each segment's last tokens these are (N), their positions in the row (U),
    and where the supervised positions are among them (S). Something is always kept, so that every
    parameter has a gradient, if of 0: collectives wait for each of them.
    """
    ends_N = np.cumsum(lengths)
    first_N = ends_N.copy()
    np.minimum.at(first_N, np.searchsorted(ends_N, positions_S, side="right"), positions_S)
    if not len(positions_S):
        first_N[-1] -= 1
    kept_U = np.flatnonzero(np.arange(ends_N[-1]) >= np.repeat(first_N, lengths))
    return tuple((ends_N - first_N).tolist()), kept_U, np.searchsorted(kept_U, positions_S)
