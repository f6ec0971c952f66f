"""Loads the model to train, with packed attention."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sumzero.errors import DataError
from sumzero.kernels.packed_attention import NAME


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


def attention_facts(path: str, revision: str | None = None) -> tuple[int, bool]:
    """Width of an attention head, and whether scores are soft-capped.

    Raises DataError where there is no such model.
    """
    config = _config(path, revision).get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size), getattr(config, "attn_logit_softcapping", None) is not None


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
