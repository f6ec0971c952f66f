"""Puts together what a run trains with: model, adapters, engine; each proved before it is used."""

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, DataError
from sumzero.kernels.packed_attention import choose_backends
from sumzero.kernels.segments import Backends
from sumzero.loading import load_tokenizer
from sumzero.ranks import Ranks
from sumzero.runfolder import RunFolder
from sumzero.train import engine
from sumzero.train.adapters import add_adapters
from sumzero.train.attest import attest
from sumzero.train.epoch import Epochs
from sumzero.train.four_bit import quantization
from sumzero.train.heap import keep_freed_memory
from sumzero.train.model import attention_facts, check_context, load_model
from sumzero.train.proof import prove_packing
from sumzero.train.sequence_parallel import SequenceGroup, columns
from sumzero.train.store import TokenStore
from sumzero.train.supervised import SupervisedLM


@dataclass(frozen=True)
class Assembled:
    """A trainer that is ready for the first step, or for a checkpoint.

    `difference` is the largest one of logits that `prove_packing` found.
    """

    trainer: engine.Engine
    backends: Backends
    pad_id: int
    difference: float


def make_epochs(store: TokenStore, config: RunConfig, hidden_size: int) -> Epochs:
    """The epochs of a run's training data. Raises DataError where nothing can be learnt."""
    epochs = Epochs(store, config, hidden_size)
    try:
        epochs.epoch(0)
    except ValueError as error:
        raise DataError(f"data.train: {error}; run `sumzero prepare` again") from None
    return epochs


def assemble(
    config: RunConfig,
    settings: dict[str, Any],
    device: torch.device,
    tell: Callable[[str], None],
    *,
    shared: bool,
) -> Assembled:
    """Loads the model onto all ranks and proves it; with `shared`, shared documents as well.

    `settings` are DeepSpeed's; `tell` is called with what is being done. Raises a SumZeroError
    where model or machine do not allow it.
    """
    model, train = config.model, config.train
    path = RunFolder.of(config).model_path(config)
    tokenizer = load_tokenizer(path, model.revision)
    check_context(path, config.data.max_length, model.revision)
    dtype = getattr(torch, model.dtype)
    head_size, softcap = attention_facts(path, model.revision)
    backends = choose_backends(device, dtype, head_size, model.attention, softcap=softcap)
    packed = quantization(train.lora, settings, dtype)
    torch.manual_seed(config.seed)
    tell("loading the model")
    with engine.zero3_loading(settings):
        lm = load_model(path, dtype, model.revision, quantization=packed)
    tell("comparing weights with the model's files")
    attest(lm, path, model.revision, device)
    if train.lora is not None:
        add_adapters(lm, train.lora, config.seed)
    if train.gradient_checkpointing:
        lm.gradient_checkpointing_enable()
    tell("starting DeepSpeed")
    group = SequenceGroup.join(train.sequence_parallel)
    supervised = SupervisedLM(lm, backends, fused=model.fused_layers, group=group)
    trainer = engine.Engine(supervised, settings, train)
    if device.type == "cpu":
        keep_freed_memory()  # not before: loading makes copies that are not needed again
    tell("proving that packing changes nothing")
    difference = prove_packing(trainer.model, lm, len(tokenizer), shared=shared, group=group)
    trainer.model.train()
    return Assembled(trainer, backends, tokenizer.pad_token_id or 0, difference)


def check_ranks(config: RunConfig, who: Ranks, epochs: Epochs) -> None:
    """Raises ConfigError where a step, DataError where an epoch, has fewer bins than ranks."""
    groups, shared = columns(config, who).world, config.train.sequence_parallel
    told = f"{groups} ranks" if shared == 1 else f"{groups} groups of {shared} ranks"
    if config.train.bins_per_step < groups:
        raise ConfigError(
            f"train.bins_per_step = {config.train.bins_per_step} for {told}: some would have "
            "nothing to do; raise it, or start fewer ranks"
        )
    if (bins := epochs.epoch(0).plan.num_bins) < groups:
        raise DataError(
            f"data.train: fills {bins} bins of {config.data.max_length} tokens for {told}: some "
            "would have nothing to do; start fewer ranks, or lower data.max_length"
        )


def environment(who: Ranks, device: torch.device, backends: Backends) -> dict[str, Any]:
    """What a run ran on: machine, device, ranks, packages."""
    packages = ("torch", "deepspeed", "transformers", "tokenizers", "datasets", "peft", "sumzero")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": who.world,
        "threads": torch.get_num_threads(),
        "attention": vars(backends),
        "packages": {name: metadata.version(name) for name in packages},
    }
