"""DeepSpeed, and nothing else of the project touches it: ZeRO-3, the step, shards on disk.

`ds_configs/` hold ZeRO, offload and communication keys; batch, precision and clipping come from the
recipe, so that no setting is said twice.
"""

import io
import json
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from sumzero import ds_configs
from sumzero.config import Model, Train
from sumzero.errors import ConfigError
from sumzero.ranks import Ranks
from sumzero.train import state
from sumzero.train.layout import shard_layout
from sumzero.train.shards import ShardFiles
from sumzero.train.supervised import PREFIX

# transformers reads ahead in threads without it: a model at once, where experts are fused.
_SEQUENTIAL = "HF_DEACTIVATE_ASYNC_LOAD"
_OURS = {
    "train_batch_size": "train.bins_per_step",
    "train_micro_batch_size_per_gpu": "train.bins_per_step",
    "gradient_accumulation_steps": "train.bins_per_step",
    "gradient_clipping": "train.clip",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "optimizer": "train.lr, train.betas, train.weight_decay",
    "scheduler": "train.schedule",
}


def deepspeed_settings(model: Model, train: Train, num_micro_steps: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a run: the preset plus what the recipe says.

    Raises ConfigError where there is no such preset, or it holds a key that the recipe sets, or
    parameters would be out of reach.
    """
    preset = _read_preset(train.deepspeed)
    conflicts = [f"{key} (set {_OURS[key]})" for key in preset if key in _OURS]
    if conflicts:
        raise ConfigError(
            f"train.deepspeed: {train.deepspeed} holds {', '.join(conflicts)}; "
            "the recipe sets these"
        )
    offload = preset.get("zero_optimization", {}).get("offload_param", {})
    if offload.get("device") == "nvme":
        raise ConfigError(
            f"train.deepspeed: {train.deepspeed} offloads parameters to NVMe, where their values "
            "cannot be compared with the model's files; offload them to the CPU"
        )
    return preset | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": num_micro_steps,
        "gradient_clipping": train.clip,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
    }


def start(who: Ranks) -> torch.device:
    """Joins the process group and returns this rank's device.

    Without a launcher (no MASTER_ADDR) a lone process forms a group of its own.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Ranks share the cores of a node unless the launcher has divided them.
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // who.local_world))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29500" if who.world > 1 else "0")
    for name, value in (
        ("RANK", who.rank),
        ("WORLD_SIZE", who.world),
        ("LOCAL_RANK", who.local_rank),
    ):
        os.environ.setdefault(name, str(value))
    import deepspeed

    # The op for shared-memory collectives is compiled on first use and ends the run where there is
    # no compiler; gloo serves without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", who.local_rank)
        torch.cuda.set_device(device)
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)
    return device


@contextmanager
def zero3_loading(settings: dict[str, Any]) -> Iterator[None]:
    """While open, each parameter is split over the ranks as soon as it has its values (ZeRO-3).

    Models are then loaded as without ZeRO, from files mapped into memory, so that a rank holds its
    own share and one whole parameter at a time. transformers' own ZeRO-3 loading is not used: it
    builds the model under `zero.Init`, which rounds buffers such as rotary frequencies to the
    model's dtype, and every rank fuses the experts of all layers before it splits any. All ranks
    load together, and add modules of their own, such as adapters, afterwards. Nothing happens below
    stage 3.
    """
    if settings.get("zero_optimization", {}).get("stage", 0) != 3:
        yield
        return
    import deepspeed
    from torch.nn.modules.module import register_module_parameter_registration_hook

    zero = deepspeed.zero.Init(module=torch.nn.Module(), config_dict_or_path=settings)

    def split(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is None or parameter.is_meta or hasattr(parameter, "ds_id"):
            return
        # Rank 0's values are broadcast; written into a mapped file they would stay in memory.
        parameter.data = parameter.data.to(zero.local_device, copy=True)
        zero._convert_to_zero_parameters([parameter])

    before = os.environ.get(_SEQUENTIAL)
    os.environ[_SEQUENTIAL] = "1"
    handle = register_module_parameter_registration_hook(split)
    try:
        yield
    finally:
        handle.remove()
        os.environ.pop(_SEQUENTIAL) if before is None else os.environ.update({_SEQUENTIAL: before})


def own_share(tensor: Any) -> tuple[torch.Tensor, int, int]:
    """Of a parameter: what this rank holds of it, flat; where that begins; ranks that share it."""
    if not hasattr(tensor, "ds_tensor"):
        return tensor.detach().reshape(-1), 0, 1
    part, group = tensor.ds_tensor, tensor.ds_process_group
    begin = part.numel() * torch.distributed.get_rank(group)
    # The last partitions are padded.
    return (
        part.detach()[: max(0, tensor.ds_numel - begin)],
        begin,
        torch.distributed.get_world_size(group),
    )


class Engine:
    """A model under ZeRO with its optimizer."""

    def __init__(self, model: torch.nn.Module, settings: dict[str, Any], train: Train) -> None:
        import deepspeed

        # DeepSpeed leaves the buffers of a model that is split already where they are.
        device = deepspeed.accelerator.get_accelerator().current_device_name()
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, train.weight_decay), lr=train.lr, betas=train.betas
        )
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings
        )
        self.module: torch.nn.Module = self._engine.module
        self._settings = settings
        self._world = torch.distributed.get_world_size()

    @property
    def model(self) -> torch.nn.Module:
        """The model as it must be called: through the engine, so that ZeRO's hooks run."""
        model: torch.nn.Module = self._engine
        return model

    def backward(self, summed_loss: torch.Tensor, step_weight: int) -> None:
        """Adds a micro-batch's gradient: that of its summed loss over the step's global weight.

        ZeRO averages gradients over ranks, hence the factor; accumulation must not divide again.
        """
        self._engine.backward(
            summed_loss * (self._world / max(1, step_weight)), scale_wrt_gas=False
        )

    def step(self, lr: float) -> None:
        """Ends a micro-step; on the last one of a step, clips and updates the parameters."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()

    @property
    def gradient_norm(self) -> float:
        """The norm of the last step's gradient before clipping, over all ranks."""
        return float(self._engine.get_global_grad_norm() or 0.0)

    @property
    def skipped_steps(self) -> int:
        """Steps that ZeRO left out because a gradient was not finite."""
        return int(self._engine.skipped_steps)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a small tensor over all ranks, on each of them."""
        torch.distributed.all_reduce(value)
        return value

    @property
    def layout(self) -> dict[str, Any]:
        """How the optimizer's state is split: shards fit only where it is the same."""
        return shard_layout(self._settings, self._world)

    @property
    def trained(self) -> dict[str, Any]:
        """What is trained: the number of parameters and a digest of their names and shapes."""
        return state.trained(self._engine)

    def save(self, folder: Path, tag: str, *, later: bool) -> ShardFiles:
        """Every rank writes its shard to `folder`/`tag`, or with `later` keeps a copy of it."""
        return state.save(self._engine, folder, tag, later=later)

    def load(self, folder: Path, tag: str) -> None:
        """Restores weights, optimizer and counters. Raises RunError where that is not possible."""
        state.load(self._engine, folder, tag)

    def close(self) -> None:
        """Leaves the process group; all ranks together."""
        leave()


def leave() -> None:
    """Leaves the process group; all ranks together, so that none is gone too early."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def consolidated_weights(checkpoints: Path, tag: str) -> dict[str, torch.Tensor]:
    """The whole model's float32 weights by their names in `SupervisedLM.lm`, from all shards."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it is talkative
        weights: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoints), tag=tag
        )
    return {name.removeprefix(PREFIX): value for name, value in weights.items()}


def convert(checkpoint: Path, out: Path, workers: int = 1) -> None:
    """Writes DeepSpeed's universal form of a checkpoint: a file a parameter, for any layout.

    With one worker no process is forked. `latest_universal` beside `out` is DeepSpeed's.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    arguments = Namespace(
        input_folder=str(checkpoint),
        output_folder=str(out),
        num_extract_workers=workers,
        num_merge_workers=workers,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,  # of stages below 3, which Megatron's models bring
    )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it is talkative
        main(arguments)


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors (norms, biases) do not; a group without parameters is left out."""
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            shape = getattr(parameter, "ds_shape", parameter.shape)  # whole, under ZeRO-3
            groups[len(shape) >= 2].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        for decays, parameters in groups.items()
        if parameters
    ]


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
