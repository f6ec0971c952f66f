"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: which modules get one, how they begin.

A layer with an adapter gives W x + scale * B (A x): W is the base's weight, which stays as it is, A
(rank, in) begins random and B (out, rank) as zeros. `scale` is alpha / rank, with rsLoRA alpha /
sqrt(rank).

Adapters have the model's dtype. Under ZeRO that is what trains right: the optimizer holds a float32
copy of every trainable parameter and updates that, and DeepSpeed would cast float32 adapters to
bfloat16 with all other parameters.

Dropout is drawn anew for each bin from (seed, step, bin): before a bin's forward pass the loop
calls `torch.manual_seed(bin_seed(...))`. So it does not matter which rank has the bin, nor how many
ranks there are; gradient checkpointing replays what was drawn.
"""

import difflib
import hashlib
import math

import torch
from torch import nn
from transformers import PreTrainedModel

from sumzero.config import Lora
from sumzero.errors import ConfigError, RunError

ALL_LINEAR = "all-linear"


def add_adapters(lm: PreTrainedModel, lora: Lora, seed: int) -> None:
    """Adds adapters to a loaded model, in place, and freezes all else.

    Every rank begins with the same ones, drawn from `seed`. Call it after `zero3_loading` has
    closed and the weights were attested. Raises ConfigError where a target is no linear layer of
    the model, RunError where peft is not installed.
    """
    names = adapted(lm, lora)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise RunError("train.lora needs peft: pip install 'sumzero[train]'") from None
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=names,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, lm)
    for parameter in lm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(lm.dtype)


def adapted(lm: PreTrainedModel, lora: Lora) -> list[str]:
    """Names of the modules that get an adapter, in the model's order.

    A target is a module's name or the end of one. Raises ConfigError, with a line for each target
    that is no linear layer.
    """
    head = lm.get_output_embeddings()
    modules = dict(lm.named_modules())
    linear = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and module is not head
    ]
    kind, problems = type(lm).__name__, []
    for target in lora.targets:
        if target == ALL_LINEAR:
            if not linear:
                problems.append(f"train.lora.targets: {kind} has no linear layer but its head")
        elif not any(_names(target, name) for name in linear):
            found = next((name for name in modules if _names(target, name)), None)
            problems.append(f"train.lora.targets: {_fault(target, found, modules, head, kind)}")
            near = _near(target, linear)
            problems[-1] += f"; did you mean {' or '.join(near)}?" if near else ""
    if problems:
        raise ConfigError(problems)
    return [name for name in linear if any(_names(target, name) for target in lora.targets)]


def scale(lora: Lora) -> float:
    """What an adapter's output counts."""
    return lora.alpha / (math.sqrt(lora.rank) if lora.rslora else lora.rank)


def bin_seed(seed: int, step: int, bin_: int) -> int:
    """The seed of a bin's dropout, below 2^63: of a run's seed, the global step and the bin."""
    text = f"{seed} {step} {bin_}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _names(target: str, name: str) -> bool:
    return target == ALL_LINEAR or name == target or name.endswith(f".{target}")


def _fault(
    target: str, found: str | None, modules: dict[str, nn.Module], head: nn.Module | None, kind: str
) -> str:
    if found is None:
        return f"{target!r} is no module of {kind}"
    if modules[found] is head:
        return f"{target!r} is the head of {kind}, which gets no adapter"
    return f"{target!r} is no linear layer of {kind}, but {type(modules[found]).__name__}"


def _near(target: str, linear: list[str]) -> list[str]:
    """Up to three names that may have been meant, as short as `target` was."""
    parts = target.count(".") + 1
    known = dict.fromkeys(".".join(name.split(".")[-parts:]) for name in linear)
    return difflib.get_close_matches(target, known, n=3, cutoff=0.5) or list(known)[:3]
