"""The settings of `[train]` and `[train.lora]`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from sumzero.setting import SETTINGS, Count, NotNegative, Positive, Share


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Lora:
    """Low-rank adapters (peft) in place of full fine-tuning; the base model stays as it is."""

    rank: Count = 16
    """Rank of the two factors of an adapter."""
    alpha: Positive = 32.0
    """Scale of the adapters: their output counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that are zeroed in training."""
    targets: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = ("all-linear",)
    """Names of the modules that get an adapter; "all-linear" is every linear layer but the head."""
    rslora: bool = False
    """Scales by alpha / sqrt(rank) instead (arXiv 2312.03732)."""
    base: Literal["whole", "4bit"] = "whole"
    """"4bit" holds the base in NF4 (bitsandbytes); every rank then holds all of it."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Train:
    """The optimization."""

    lora: Lora | None = None
    """Trains low-rank adapters where there is a section [train.lora]."""

    deepspeed: str = "zero3"
    """A preset of ds_configs/ by name, or the path of a DeepSpeed JSON file."""
    bins_per_step: Count = 32
    """Packed bins of one optimizer step, over all ranks: the global batch."""
    balance_width: Count | None = None
    """Bins of near-equal attention cost that a step takes together; docs/data.md has the curve.
    Default: an eighth of `bins_per_step`."""
    loss_weight: Literal["token", "target"] = "token"
    """What counts the same in the loss: every supervised token, or every target."""
    epochs: Positive = 3.0
    """How often the training data are gone through; parts of one too."""
    max_steps: Count | None = None
    """Ends the run earlier; the schedule ends with it."""
    lr: Positive = 1e-5
    """The highest learning rate, which the warm-up ends with."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    warmup: Share = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same in steps, in place of the share."""
    min_lr: Share = 0.1
    """Where cosine and linear end, as a share of `lr`."""
    weight_decay: NotNegative = 0.0
    """Of AdamW, on matrices."""
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.95)
    """Of AdamW: decay of the two moments."""
    clip: Positive = 1.0
    """Limit of the gradient's norm."""
    gradient_checkpointing: bool = False
    """Computes layers again in the backward pass instead of keeping their activations."""
    sequence_parallel: Count = 1
    """Ranks that share a bin, each with a part of its tokens (DeepSpeed-Ulysses), for bins too long
    for one device."""
    save_every: Count | None = None
    """Steps between checkpoints; one is always saved at the end."""
    save_minutes: Positive | None = None
    """Minutes between checkpoints."""
    save_async: bool = False
    """Writes checkpoints while the next steps run."""
    keep_last: Count = 2
    """How many of the newest checkpoints are kept, besides the best."""
    keep_every: Count | None = None
    """Checkpoints at multiples of this many steps are kept for good."""
    eval_every: Count | None = None
    """Steps between evaluations of `data.validation`; one is always made at the end."""
    early_stop: Count | None = None
    """Ends the run after this many evaluations in a row that were no better than the best."""
    max_skipped: Count = 10
    """Steps in a row that may be skipped because a loss or gradient is not finite."""
    spike: Positive = 6.0
    """Standard deviations above the recent losses from which a step is logged as a spike."""
    max_minutes: Positive | None = None
    """Saves and ends in time with the exit code of a preempted run, to be started again."""
    stall_minutes: Positive = 30.0
    """Ends the run where no step was made for so long."""
    log_every: Count = 10
    """Steps between lines of the log."""
    wandb: str | None = None
    """A project of Weights & Biases to log to; its key is taken from the environment."""
    peak_tflops: Positive | None = None
    """Of one device in the model's dtype, for the model FLOP/s utilisation (MFU); default: what is
    published for the device."""
