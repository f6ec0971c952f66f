"""Loads the model to train, with packed attention, and proves that the layout changes nothing."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sumzero.errors import DataError
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.loss import packed_logits

# Logits of two layouts may differ by rounding: relative to the largest logit.
_ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def load_model(
    path: str, dtype: torch.dtype, revision: str | None = None, attention: str = NAME
) -> PreTrainedModel:
    """A causal LM from a local folder or the Hub, in `dtype`; no remote code, safetensors only.

    Where a ZeRO-3 configuration is alive (`engine.zero3_loading`), parameters are split over the
    ranks as they are read. Raises DataError where there is no such model or a weight is missing.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise DataError(f"{path}: the model folder has no config.json")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: no model can be loaded: {reason}") from None
    for problem in ("missing_keys", "mismatched_keys"):
        if info.get(problem):
            names = ", ".join(str(name) for name in sorted(info[problem])[:3])
            raise DataError(f"{path}: {len(info[problem])} {problem.replace('_', ' ')}: {names}")
    loaded: PreTrainedModel = model
    return loaded


def hidden_size(path: str, revision: str | None = None) -> int:
    """Width of a model's layers. Raises DataError where there is no such model."""
    return int(_config(path, revision).get_text_config().hidden_size)


def attention_shape(path: str, revision: str | None = None) -> tuple[int, float | None]:
    """The size of a model's heads, and the cap of its scores or None. Raises DataError."""
    config = _config(path, revision).get_text_config()
    head_size = getattr(config, "head_dim", None)
    if head_size is None:
        head_size = config.hidden_size // config.num_attention_heads
    return int(head_size), getattr(config, "attn_logit_softcapping", None)


def check_context(path: str, max_length: int, revision: str | None = None) -> None:
    """Raises DataError where the model has fewer positions than `data.max_length` asks for."""
    config = _config(path, revision).get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise DataError(f"data.max_length = {max_length}: {path} has {limit} positions")


def _config(path: str, revision: str | None) -> Any:
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: no model can be loaded: {reason}") from None


@torch.no_grad()
def prove_packing(
    model: torch.nn.Module, backends: Backends, vocab_size: int, *, shared: bool
) -> float:
    """Runs short sequences packed and apart; returns the largest relative logit difference.

    With `shared`, also two branches of one prefix. Raises DataError where the difference exceeds
    rounding. Either the model lets documents in one bin see each other (models with linear
    attention or convolutions do), or it does not read a prefix on behalf of every branch; training
    in that layout would be wrong. All ranks must call it together.
    """
    spread = [(i * 7919 + 13) % vocab_size for i in range(24)]
    document, one, other = spread[:9], Branch([], spread[9:12]), Branch(spread[12:17], spread[17:])
    pair = [Family(document, (one,)), Family(spread[5:9], (other,))]
    difference = _difference(model, backends, pair, pair)
    name, rounding = type(model).__name__, _ROUNDING.get(next(model.parameters()).dtype, 5e-2)
    if not difference <= rounding:
        raise DataError(
            f"model: {name} cannot be trained on packed sequences: logits differ by "
            f"{difference:.1e} of the largest when two documents share a row"
        )
    if not shared:
        return difference
    apart = [Family(document, (branch,)) for branch in (one, other)]
    of_sharing = _difference(model, backends, [Family(document, (one, other))], apart)
    if not of_sharing <= rounding:
        raise DataError(
            f"model: {name} cannot read a document once for several targets: logits differ by "
            f"{of_sharing:.1e} of the largest; data.share_documents = false lays the document out "
            "for each target"
        )
    return max(difference, of_sharing)


def _difference(
    model: torch.nn.Module, backends: Backends, together: list[Family], apart: list[Family]
) -> float:
    """Of the logits of families in one row to those of a row each, relative to the largest."""
    was_training = model.training
    model.eval()
    found = packed_logits(model, make_batch(together, 0), backends).float()
    want = torch.cat(
        [packed_logits(model, make_batch([one], 0), backends) for one in apart]
    ).float()
    model.train(was_training)
    return float((found - want).abs().max() / want.abs().max().clamp_min(1e-6))
