"""Proves on the model at hand, before the first step, that the layout of a batch changes nothing.

Two short documents are run apart by transformers' own layers, then apart by ours, then packed in
one row, then as two branches of one prefix: all must give the same logits, and the loss that these
logits have.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from sumzero.errors import DataError
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.model import other_layers
from sumzero.train.sequence_parallel import SequenceGroup

# Two ways to the same logits may differ by rounding: relative to the largest. Bounds are fixed,
# since a float32 copy of the model, to measure rounding with, would be too large.
_ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2}


@torch.no_grad()
def prove_packing(
    model: torch.nn.Module,
    lm: PreTrainedModel,
    vocab_size: int,
    *,
    shared: bool,
    group: SequenceGroup | None = None,
) -> float:
    """Compares packed with separate sequences; returns the largest relative difference of logits.

    `model` is a SupervisedLM of `lm`, or the engine that runs it; with `shared`, two branches of
    one prefix are compared as well. `group` are the ranks that share bins, if any: they share these
    too, while the model's own layers see them whole. Raises DataError where a difference exceeds
    rounding: our layers do not compute what the model's own do, or documents in one bin see each
    other (models with linear attention or convolutions carry a state from one to the next), or a
    prefix is not read on behalf of every branch. All ranks must call it together.
    """
    spread = [(i * 7919 + 13) % vocab_size for i in range(24)]
    document, one, other = spread[:9], Branch([], spread[9:12]), Branch(spread[12:17], spread[17:])
    pair = [Family(document, (one,)), Family(spread[5:9], (other,))]
    branches = [Family(document, (branch,)) for branch in (one, other)]
    packed = make_batch(pair, 0)

    was_training = model.training
    model.eval()
    reference = _apart(model, pair, "reference")
    labels_S = packed.labels.to(reference.device)
    reference_loss = F.cross_entropy(reference.float(), labels_S, reduction="sum")
    apart = _apart(model, pair, "logits")
    loss = model(packed) if group is None else group.total(model(packed))
    checks = [
        (
            f"gives other logits in SumZero's layers{_where(group)} than in its own, by {{}}; "
            "model.fused_layers = false trains with its own",
            (apart, reference),
        ),
        (
            f"cannot be trained on packed sequences{_why(lm.config)}: logits differ by {{}} when "
            "two documents share a row",
            (model(packed, "logits"), apart),
        ),
        ("has another loss than its logits give, by {}", (loss, reference_loss)),
    ]
    if shared:
        together = model(make_batch([Family(document, (one, other))], 0), "logits")
        checks.append(
            (
                "cannot read a document once for several targets: logits differ by {}; "
                "data.share_documents = false lays the document out for each target",
                (together, _apart(model, branches, "logits")),
            )
        )
    model.train(was_training)

    differences = []
    for problem, (found, want) in checks:
        difference = (found.float() - want.float()).abs().max() / want.float().abs().max()
        differences.append(float(difference))
        if not differences[-1] <= _ROUNDING[lm.dtype]:
            size = f"{differences[-1]:.1e} of the largest"
            raise DataError(f"model: {type(lm).__name__} {problem.format(size)}")
    return max(differences)


def _apart(model: torch.nn.Module, families: list[Family], want: str) -> torch.Tensor:
    return torch.cat([model(make_batch([one], 0), want) for one in families])


def _where(group: SequenceGroup | None) -> str:
    return "" if group is None else f" on {group.size} ranks (train.sequence_parallel)"


def _why(config: Any) -> str:
    """The layers that are not attention, where the configuration names them."""
    kinds = other_layers(config.get_text_config())
    return f", for its layers of {', '.join(kinds)}" if kinds else ""
