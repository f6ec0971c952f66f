"""A base model in 4 bits (NF4, arXiv 2305.14314) by bitsandbytes, under trainable adapters.

Linear layers but the head are quantised as they are read: blocks of 64 values, each with a scale
that is itself quantised. Embeddings, norms, the head and experts that are one tensor stay in the
model's dtype.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sumzero.config import Lora
from sumzero.errors import ConfigError, RunError
from sumzero.train.layout import zero_stage


def quantization(lora: Lora | None, settings: dict[str, Any], dtype: torch.dtype) -> Any:
    """What `load_model` is told for a 4-bit base, or None; `settings` are DeepSpeed's.

    Raises ConfigError under ZeRO-3 and RunError where bitsandbytes is not installed.
    """
    check_stage(lora, settings)
    if lora is None or lora.base != "4bit":
        return None
    for package in ("bitsandbytes", "accelerate"):
        if find_spec(package) is None:
            raise RunError(
                f'train.lora.base = "4bit": {package} is not installed; pip install {package}'
            )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_stage(lora: Lora | None, settings: dict[str, Any]) -> None:
    """Raises ConfigError for a 4-bit base under ZeRO-3.

    It would split the packed values from the scales that they are read with.
    """
    if lora is not None and lora.base == "4bit" and zero_stage(settings) == 3:
        raise ConfigError(
            'train.lora.base: "4bit" cannot be split by ZeRO-3; every rank holds all of it: set '
            "train.deepspeed=zero2"
        )


def is_quantised(tensor: Tensor) -> bool:
    """Whether a parameter is held in 4 bits."""
    return type(tensor).__name__ == "Params4bit"


def quantised_as(held: Any, values: Tensor) -> Any:
    """`values` in 4 bits, made as bitsandbytes made the parameter `held`, on its device."""
    from bitsandbytes.nn import Params4bit

    made = Params4bit(
        values.to(held.quant_state.dtype),
        requires_grad=False,
        blocksize=held.blocksize,
        compress_statistics=held.compress_statistics,
        quant_type=held.quant_type,
        quant_storage=held.quant_storage,
    )
    return made.to(held.device)


def parts(held: Any) -> list[Tensor]:
    """All that a parameter in 4 bits is read with, flat: packed values, scales, tables, offset."""
    state = held.quant_state
    found = [held.data, state.absmax, state.code]
    if state.nested:
        found += [state.state2.absmax, state.state2.code, state.offset]
    return [part.detach().reshape(-1) for part in found]
