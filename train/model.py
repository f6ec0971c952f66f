"""Loads the model to train, with packed attention."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sumzero.errors import DataError
from sumzero.kernels.packed_attention import NAME
from sumzero.train.weights import weight_files


def load_model(
    path: str,
    dtype: torch.dtype,
    revision: str | None = None,
    attention: str = NAME,
    quantization: Any = None,
) -> PreTrainedModel:
    """A causal LM from a local folder or the Hub, in `dtype`; no remote code, safetensors only.

    `quantization` is what `four_bit.quantization` gives. Within `engine.zero3_loading`, parameters
    are split over the ranks as they are read. Raises DataError where there is no such model or a
    weight is missing.
    """
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise DataError(f"{path}: the model folder has no config.json")
    _config(path, revision)  # says what is wrong with a path before weights are looked for
    weight_files(path, revision)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            quantization_config=quantization,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path}: no model can be loaded: {_reason(error)}") from None
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise DataError(
            f"{path}: tensors of the files cannot be made into the model's, see the report above: "
            "one may be missing, or config.json may be of another model"
        ) from None
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    if missing:
        raise DataError(f"{path}: {len(missing)} missing keys: {', '.join(missing[:3])}")
    if mismatched:
        name, stored, wanted = mismatched[0]
        raise DataError(
            f"{path}: {len(mismatched)} weights have other shapes than config.json says: {name} is "
            f"{list(stored)} in the files and {list(wanted)} by config.json"
        )
    loaded: PreTrainedModel = model
    return loaded


# Kinds of layers by transformers' names, in which a token sees others by attention or not at all.
_ATTENTION = {"full_attention", "sliding_attention", "attention", "mlp", "moe"}


def text_config(path: str, revision: str | None = None) -> Any:
    """A model's configuration, of its text part. Raises DataError where there is no such model."""
    return _config(path, revision).get_text_config()


def other_layers(config: Any) -> list[str]:
    """Kinds of layers in which tokens see others by something else than attention, sorted.

    Those that the configuration of a text model names: linear attention, convolutions, mixtures.
    """
    named = (getattr(config, key, None) or () for key in ("layer_types", "layers_block_type"))
    return sorted({kind for kinds in named for kind in kinds} - _ATTENTION)


def hidden_size(path: str, revision: str | None = None) -> int:
    """Width of a model's layers. Raises DataError where there is no such model."""
    return int(text_config(path, revision).hidden_size)


def attention_facts(path: str, revision: str | None = None) -> tuple[int, float | None]:
    """Width of an attention head, and where scores are soft-capped the cap.

    Raises DataError where there is no such model, or one without attention.
    """
    config = text_config(path, revision)
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        kind = config.model_type
        raise DataError(
            f"{path}: {kind} has no attention; it cannot be trained on packed sequences"
        )
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(size), getattr(config, "attn_logit_softcapping", None)


def check_context(path: str, max_length: int, revision: str | None = None) -> None:
    """Raises DataError where the model has fewer positions than `data.max_length` asks for."""
    config = text_config(path, revision)
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise DataError(f"data.max_length = {max_length}: {path} has {limit} positions")


def _config(path: str, revision: str | None) -> Any:
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path}: no model can be loaded: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())


def skeleton(
    path: str, revision: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> PreTrainedModel:
    """The model on the meta device, in `dtype`: its modules and shapes, from its configuration.

    Raises DataError where there is no such model or it is not a causal LM of transformers.
    """
    config = _config(path, revision)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=False
            )
    except (ValueError, ImportError, TypeError) as error:
        raise DataError(f"{path}: no model can be built: {_reason(error)}") from None
    return model
