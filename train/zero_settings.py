"""The DeepSpeed configuration of a run: a preset of `ds_configs/` or a user's file, and the recipe.

A preset holds ZeRO, offload and communication keys; batch, precision, clipping and schedule come
from the recipe, so that no setting is said twice. Sizes that depend on the model or the cluster may
be "auto"; here they get their numbers. DeepSpeed itself is not needed: `sumzero plan` reads them.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from sumzero import ds_configs
from sumzero.config import Model, Train
from sumzero.errors import ConfigError
from sumzero.log import logger
from sumzero.ranks import Ranks, ranks

_SCALING = "the loss is divided by the step's weight already"
_AS_IS = "the model is trained as it is"
# What a file may not hold, and why: the recipe's keys first.
_OURS = {
    "train_batch_size": "set train.bins_per_step",
    "train_micro_batch_size_per_gpu": "set train.bins_per_step",
    "gradient_accumulation_steps": "set train.bins_per_step",
    "managed_gradient_accumulation": "set train.bins_per_step",
    "elasticity": "set train.bins_per_step",
    "gradient_clipping": "set train.clip",
    "bf16": "set model.dtype",
    "bfloat16": "set model.dtype",
    "fp16": "set model.dtype",
    "amp": "set model.dtype",
    "torch_autocast": "set model.dtype",
    "optimizer": "set train.lr, train.betas, train.weight_decay",
    "scheduler": "set train.schedule",
    "activation_checkpointing": "set train.gradient_checkpointing",
    "sequence_parallel_size": "set train.sequence_parallel",
    "wandb": "set train.wandb",
    "steps_per_print": "set train.log_every",
    "gradient_allreduce_op": _SCALING,
    "prescale_gradients": _SCALING,
    "gradient_predivide_factor": _SCALING,
    "curriculum_learning": "the plan orders the data",
    "data_efficiency": "the plan orders the data",
    "compression_training": _AS_IS,
    "quantize_training": _AS_IS,
    "progressive_layer_drop": _AS_IS,
    "tensor_parallel": _AS_IS,
    "weight_quantization": _AS_IS,
    "compile": "DeepCompile is not used; ds_configs/README.md says why",
    "zero_allow_untested_optimizer": "it is set for the optimizer, torch's AdamW",
    "zero_force_ds_cpu_optimizer": "it is set for the optimizer, torch's AdamW",
    "checkpoint.load_universal": "resuming finds the kind of a checkpoint by itself",
    "zero_optimization.compute_grad_norm": "train.clip needs the norm",
    "zero_optimization.zero_quantized_nontrainable_weights": (
        "what is stored could not be compared with the model's files"
    ),
}
_LARGEST_BUCKET = 200_000_000  # elements; 0.4 GB in bfloat16


def deepspeed_settings(
    model: Model,
    train: Train,
    num_micro_steps: int,
    *,
    hidden_size: int | None = None,
    who: Ranks | None = None,
    swap: Path | None = None,
) -> dict[str, Any]:
    """The DeepSpeed configuration of a run: the preset plus what the recipe says.

    `hidden_size` is the model's, for sizes that a preset leaves to it ("auto"; where it is not
    given DeepSpeed's own defaults hold); `who` the launch's ranks, by default those of the
    environment; `swap` the folder for what is offloaded to NVMe where the file names none. Raises
    ConfigError where there is no such preset, it holds a key that the recipe sets, or the recipe
    does not fit it.
    """
    preset = _read_preset(train.deepspeed)
    _refuse_conflicts(preset, train)
    zero = dict(preset["zero_optimization"])
    sizes = _sizes(train, hidden_size, (who or ranks()).local_world)
    for key, value in list(zero.items()):
        if value == "auto" and key in sizes:
            zero[key] = sizes[key]
    offload = zero.get("offload_optimizer") or {}
    if offload.get("device") == "nvme":
        zero["offload_optimizer"] = offload | {"nvme_path": _swap_folder(offload, train, swap)}
    _check_hpz(zero, train, (who or ranks()).world)
    _warn_where_idle(zero, train, who or ranks())
    return preset | {
        "zero_optimization": {key: value for key, value in zero.items() if value != "auto"},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": num_micro_steps,
        "gradient_clipping": train.clip,
        # Without the check, stages 1 and 2 would take a step whose gradient is not finite.
        "bf16": {"enabled": model.dtype == "bfloat16", "check_grad_overflow": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def swap_folder(settings: dict[str, Any]) -> Path | None:
    """Where optimizer state lies that is offloaded to NVMe; None where none is."""
    offload = settings.get("zero_optimization", {}).get("offload_optimizer") or {}
    return Path(offload["nvme_path"]) if offload.get("device") == "nvme" else None


def _refuse_conflicts(preset: dict[str, Any], train: Train) -> None:
    file = f"train.deepspeed: {train.deepspeed}"
    problems = []
    for key, reason in _OURS.items():
        table, _, name = key.rpartition(".")
        held = preset.get(table, {}) if table else preset
        if isinstance(held, dict) and name in held:
            problems.append(f"{key} ({reason})")
    if problems:
        raise ConfigError(
            f"{file} holds {', '.join(problems)}; remove what the recipe or SumZero sets"
        )
    zero = preset.get("zero_optimization")
    if not isinstance(zero, dict) or zero.get("stage") not in (1, 2, 3):
        raise ConfigError(f"{file}: zero_optimization.stage must be 1, 2 or 3")
    if (zero.get("offload_param") or {}).get("device") == "nvme":
        raise ConfigError(
            f"{file} offloads parameters to NVMe, where DeepSpeed cannot restore them from a "
            "checkpoint; offload them to the CPU"
        )
    if train.deepspeed == "zero3_ulysses" and train.sequence_parallel < 2:
        raise ConfigError(
            "train.deepspeed: zero3_ulysses is for bins that several ranks share; set "
            'train.sequence_parallel to 2 or more, or deepspeed = "zero3"'
        )


def _sizes(train: Train, hidden_size: int | None, ranks_per_node: int) -> dict[str, int]:
    """The numbers for "auto", by key; ds_configs/README.md gives the reasons."""
    sizes = {"zero_hpz_partition_size": ranks_per_node}
    if hidden_size is not None:
        layer = min(12 * hidden_size**2, _LARGEST_BUCKET)
        widths = 10 if train.lora is None else max(10, 4 * train.lora.rank)
        sizes |= {
            "reduce_bucket_size": layer,
            "allgather_bucket_size": layer,
            "stage3_prefetch_bucket_size": layer,
            "stage3_param_persistence_threshold": widths * hidden_size,
        }
    return sizes


def _swap_folder(offload: dict[str, Any], train: Train, swap: Path | None) -> str:
    """Where a run swaps to: a folder of its own, that no other run of the node writes to."""
    named = str(offload.get("nvme_path", "auto"))
    if named == "auto":
        if swap is None:
            raise ConfigError(f"train.deepspeed: {train.deepspeed}: set nvme_path")
        return str(swap.absolute())
    folder = os.path.expandvars(named)
    if "$" in folder:
        raise ConfigError(
            f"train.deepspeed: {train.deepspeed}: nvme_path = {named!r}: "
            "the environment does not have this variable"
        )
    run = hashlib.sha256(str(swap and swap.absolute()).encode()).hexdigest()[:16]
    return str(Path(folder) / f"sumzero-{run}")


def _check_hpz(zero: dict[str, Any], train: Train, world: int) -> None:
    """Refuses groups of ranks of which the last would be short, as DeepSpeed cannot make them."""
    size = min(int(zero.get("zero_hpz_partition_size", 1)), world)
    if zero["stage"] == 3 and size > 1 and world % size:
        raise ConfigError(
            f"train.deepspeed: {train.deepspeed}: zero_hpz_partition_size = {size} does not divide "
            f'the {world} ranks; start equally many on every node, or set deepspeed = "zero3"'
        )


def _warn_where_idle(zero: dict[str, Any], train: Train, who: Ranks) -> None:
    used = {"zero_hpz_partition_size": (0, 1, "auto"), "zero_quantized_gradients": (False,)}
    wanted = [key for key, off in used.items() if zero.get(key, off[0]) not in off]
    if wanted and who.is_main and who.world <= who.local_world:
        logger.warning(
            "train.deepspeed: %s: on one node %s changes nothing but the memory it takes",
            train.deepspeed,
            " and ".join(wanted),
        )


def _read_preset(name: str) -> dict[str, Any]:
    folder = Path(ds_configs.__file__).parent
    file = Path(name) if name.endswith(".json") else folder / f"{name}.json"
    try:
        preset = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(preset.stem for preset in folder.glob("*.json")))
        raise ConfigError(f"train.deepspeed: no {name!r}; presets: {known}, or a .json") from None
    except ValueError as error:
        raise ConfigError(f"train.deepspeed: {file} is not valid JSON: {error}") from None
    if not isinstance(preset, dict):
        raise ConfigError(f"train.deepspeed: {file} must hold a JSON object")
    return preset
