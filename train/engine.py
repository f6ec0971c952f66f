"""DeepSpeed, and nothing else of the project touches it: ZeRO, the step, shards on disk."""

import io
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from sumzero.config import Train
from sumzero.errors import ConfigError, RunError
from sumzero.ranks import Ranks, meeting_point
from sumzero.train import state
from sumzero.train.groups import parameter_groups
from sumzero.train.layout import shard_layout, zero_stage
from sumzero.train.shards import ShardFiles
from sumzero.train.swapped import mapped
from sumzero.train.watch import leave_timeouts
from sumzero.train.zero_settings import deepspeed_settings as deepspeed_settings
from sumzero.train.zero_settings import swap_folder

# transformers reads ahead in threads without it: a model at once, where experts are fused.
_SEQUENTIAL = "HF_DEACTIVATE_ASYNC_LOAD"
_QUANTIZED = ("zero_quantized_weights", "zero_quantized_gradients")


def start(who: Ranks) -> torch.device:
    """Joins the process group and returns this rank's device.

    Where the launcher has not said where to meet, Slurm's variables do; a lone process forms a
    group of its own.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        # Ranks share the cores of a node unless the launcher has divided them.
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // who.local_world))
    host, port = meeting_point()
    for name, value in (
        ("MASTER_ADDR", host),
        ("MASTER_PORT", port),
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
    leave_timeouts()
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
    if zero_stage(settings) != 3:
        yield
        return
    _check(settings)
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
    """A model under ZeRO with its optimizer.

    The optimizer is torch's AdamW in its fused form, on every device: one pass over the state, and
    no compiler. On the CPU, where offloaded state is updated, it is as fast as DeepSpeed's CPUAdam.
    """

    def __init__(self, model: torch.nn.Module, settings: dict[str, Any], train: Train) -> None:
        _check(settings)
        import deepspeed

        # DeepSpeed leaves the buffers of a model that is split already where they are.
        device = deepspeed.accelerator.get_accelerator().current_device_name()
        for buffer in model.buffers():
            buffer.data = buffer.data.to(device)
        optimizer = torch.optim.AdamW(
            parameter_groups(model, train.weight_decay),
            lr=train.lr,
            betas=train.betas,
            fused=True,
        )
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings
        )
        leave_timeouts()
        if zero_stage(settings) < 3:
            self._create_state()
        self.module: torch.nn.Module = self._engine.module
        self.device = torch.device(device)
        self._settings = settings
        self._world = torch.distributed.get_world_size()
        self._swap = swap_folder(settings)
        self.stage = zero_stage(settings)

    def _create_state(self) -> None:
        """Gives AdamW its state before the first step.

        Below stage 3 DeepSpeed links the state of all parameter groups after it has stepped the
        first one; the others would stay without, in its checkpoints too.
        """
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                self._optimizer.optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    @property
    def model(self) -> torch.nn.Module:
        """The model as it must be called: through the engine, so that ZeRO's hooks run."""
        model: torch.nn.Module = self._engine
        return model

    def backward(self, summed_loss: torch.Tensor, step_weight: int) -> None:
        """Adds a micro-batch's gradient: that of its summed loss over the step's global weight.

        ZeRO averages gradients over ranks, hence the factor; accumulation must not divide again. A
        loss that is not finite can have a finite gradient: it is made NaN, so that ZeRO skips the
        step.
        """
        factor = torch.where(summed_loss.detach().isfinite(), 1.0, torch.nan)
        factor = factor * (self._world / max(1, step_weight))
        self._engine.backward(summed_loss * factor, scale_wrt_gas=False)

    def step(self, lr: float) -> None:
        """Ends a micro-step; on the last one of a step, clips and updates the parameters."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()

    @property
    def gradient_norm(self) -> float:
        """The norm of the last step's gradient before clipping, over all ranks.

        Not finite where the step was skipped; 0 before the first one.
        """
        return float(self._engine.get_global_grad_norm() or 0.0)

    @property
    def skipped_steps(self) -> int:
        """Steps that ZeRO left out because a gradient was not finite."""
        return int(self._engine.skipped_steps)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """A small tensor of every rank, stacked, on each of them: (n) -> (ranks, n)."""
        gathered = [torch.empty_like(values) for _ in range(self._world)]
        torch.distributed.all_gather(gathered, values)
        return torch.stack(gathered)

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
        with mapped(self._optimizer):
            return state.save(self._engine, folder, tag, later=later)

    def load(self, folder: Path, tag: str) -> None:
        """Restores weights, optimizer and counters. Raises RunError where that is not possible."""
        with mapped(self._optimizer):
            state.load(self._engine, folder, tag)

    def close(self) -> None:
        """Leaves the process group; all ranks together."""
        torch.distributed.barrier()
        if self._swap is not None:  # of no use to another run; ranks of other nodes may share it
            shutil.rmtree(self._swap, ignore_errors=True)
        leave()


def leave() -> None:
    """Leaves the process group; all ranks together, so that none is gone too early."""
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


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


def _check(settings: dict[str, Any]) -> None:
    """Refuses what DeepSpeed would fail at later, and less clearly.

    Raises ConfigError where a key of ZeRO's is misspelt or its value wrong, RunError where the
    machine lacks what the preset needs.
    """
    import deepspeed
    from deepspeed.ops.op_builder import AsyncIOBuilder
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = settings.get("zero_optimization", {})
    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        raise ConfigError(
            [
                f"train.deepspeed: zero_optimization.{'.'.join(map(str, fault['loc']))}: "
                f"{fault['msg']}"
                for fault in error.errors()
            ]
        ) from None
    quantized = [key for key in _QUANTIZED if zero.get(key)]
    if quantized and deepspeed.accelerator.get_accelerator().device_name() != "cuda":
        raise RunError(
            f"train.deepspeed: {' and '.join(quantized)}: DeepSpeed quantizes on CUDA devices "
            "only, and this machine has none; take another preset, zero3 say"
        )
    if (folder := swap_folder(settings)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            AsyncIOBuilder().load(verbose=False)
        except Exception as error:  # no libaio, no compiler, no ninja: each another one
            raise RunError(
                "train.deepspeed: offload to NVMe: DeepSpeed's async_io cannot be built; install "
                "libaio with its headers (libaio-dev or libaio-devel), a C++ compiler and ninja"
            ) from error
