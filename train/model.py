"""Loads the model to train, with packed attention, and proves that packing changes nothing."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sumzero.errors import DataError
from sumzero.kernels.packed_attention import NAME
from sumzero.train.batches import make_batch
from sumzero.train.loss import packed_logits

# Packed and separate logits may differ by rounding: relative to the largest logit.
_PACKING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


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


def check_context(path: str, max_length: int, revision: str | None = None) -> None:
    """Raises DataError where the model has fewer positions than `data.max_length` asks for."""
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: no model can be loaded: {reason}") from None
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise DataError(f"data.max_length = {max_length}: {path} has {limit} positions")


@torch.no_grad()
def prove_packing(model: torch.nn.Module, backend: str, vocab_size: int) -> float:
    """Runs two short sequences packed and apart; returns the largest relative logit difference.

    Raises DataError where it exceeds rounding: the model lets documents in one bin see each other
    (models with linear attention or convolutions do), and packed training would be wrong. All ranks
    must call it together.
    """
    spread = [(i * 7919 + 13) % vocab_size for i in range(24)]
    pair = [(spread[:9], spread[9:12]), (spread[12:17], spread[17:])]
    was_training = model.training
    model.eval()
    packed = packed_logits(model, make_batch(pair, 0), backend).float()
    apart = torch.cat([packed_logits(model, make_batch([one], 0), backend) for one in pair]).float()
    model.train(was_training)
    difference = float((packed - apart).abs().max() / apart.abs().max().clamp_min(1e-6))
    dtype = next(model.parameters()).dtype
    if not difference <= _PACKING_TOLERANCE.get(dtype, 5e-2):
        name = type(model).__name__
        raise DataError(
            f"model: {name} cannot be trained on packed sequences: logits differ by "
            f"{difference:.1e} of the largest when two documents share a row"
        )
    return difference
