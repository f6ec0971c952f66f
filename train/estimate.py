"""Memory, traffic and time of one way to run a recipe; `planner` says what makes up the time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sumzero.config import RunConfig
from sumzero.ranks import Ranks
from sumzero.runfolder import RunFolder
from sumzero.train import activations
from sumzero.train.communication import Cluster, StepTraffic, step_traffic
from sumzero.train.epoch import Epoch
from sumzero.train.flops import StepFlops, Work
from sumzero.train.four_bit import check_stage
from sumzero.train.packing import EMPTY, FloatArray
from sumzero.train.sequence_parallel import check_model_shares
from sumzero.train.structure import Structure
from sumzero.train.zero import Zero, model_state, optimizer_share
from sumzero.train.zero_settings import deepspeed_settings

GIB = 2**30
ACHIEVED = 0.4  # of the peak, by matrix products and attention; docs/planner.md has the comparison
LINKS = 0.7  # of the published rates, by collectives and copies
HOST_BANDWIDTH, NVME_BANDWIDTH = 200e9, 5e9  # bytes/s of a node
RESERVE = 2 * GIB  # CUDA context, NCCL, cuBLAS and what the allocator cannot use
_OPTIMIZER_PASS = 30  # bytes a trained parameter: state read and written, gradient read


@dataclass(frozen=True)
class Memory:
    """Bytes a device needs at its peak, by part; `host` and `nvme` are a rank's elsewhere.

    `update` is what the optimizer's step takes when activations, logits and gathered parameters are
    gone.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    update: int
    reserve: int
    host: int
    nvme: int

    @property
    def total(self) -> int:
        """On the device."""
        state = self.parameters + self.gradients + self.optimizer + self.reserve
        return state + max(self.activations + self.logits + self.buffers, self.update)


@dataclass(frozen=True)
class Option:
    """A way to run the recipe: preset, checkpointing, ranks that share a bin; and what it costs.

    `tokens` are of a step, over all ranks; `flops` what the busiest rank computes.
    """

    preset: str
    checkpointing: bool
    sequence_parallel: int
    micro_steps: int
    memory: Memory
    traffic: StepTraffic
    flops: float
    seconds: float
    tokens: float
    longest_bin: int

    @property
    def rate(self) -> float:
        """Tokens per second, over all ranks."""
        return self.tokens / self.seconds

    @property
    def settings(self) -> dict[str, Any]:
        """As overrides of the recipe."""
        return {
            "train.deepspeed": self.preset,
            "train.gradient_checkpointing": self.checkpointing,
            "train.sequence_parallel": self.sequence_parallel,
        }


class Estimate:
    """Works options out; what they have in common is worked out once."""

    def __init__(
        self,
        config: RunConfig,
        structure: Structure,
        epoch: Epoch,
        cluster: Cluster,
        room: int,
    ) -> None:
        self._config, self._structure, self._cluster, self._room = config, structure, cluster, room
        self._epoch, self._work = epoch, Work.of(epoch)
        self._itemsize = 2 if config.model.dtype == "bfloat16" else 4
        plan = epoch.plan
        full = (plan.steps != EMPTY).all(axis=1)
        self._steps = plan.steps[full] if full.any() else plan.steps
        self._tokens = float(_by_step(plan.tokens.astype(float), self._steps).sum(axis=1).mean())

    def option(self, preset: str, checkpointing: bool, sharing: int) -> Option:
        """A preset with `sharing` ranks to a bin. Raises ConfigError where that cannot be."""
        config, cluster = self._config, self._cluster
        groups = cluster.world // sharing
        micro_steps = -(-config.train.bins_per_step // groups)
        zero = Zero.of(self._settings(preset, sharing, micro_steps))
        structure = self._structure if sharing == 1 else replace(self._structure, trims=False)
        counter = StepFlops(structure)
        flops = counter.model.of(self._work)
        if checkpointing:
            flops = flops + counter.recomputed.of(self._work)
        computed = self._busiest(flops, groups, micro_steps) / sharing
        traffic = step_traffic(
            structure,
            zero,
            cluster,
            itemsize=self._itemsize,
            micro_steps=micro_steps,
            tokens=self._tokens / config.train.bins_per_step / sharing,
            sequence_parallel=sharing,
            checkpointing=checkpointing,
        )
        device = cluster.device
        compute = computed / (device.peak(config.model.dtype) * ACHIEVED)
        seconds = (
            max(compute, traffic.hidden.seconds(device, LINKS))
            + traffic.exposed.seconds(device, LINKS)
            + self._update_seconds(zero)
        )

        def memory(tokens: int) -> Memory:
            return self._memory(structure, zero, checkpointing, sharing, micro_steps, tokens)

        return Option(
            preset,
            checkpointing,
            sharing,
            micro_steps,
            memory(config.data.max_length),
            traffic,
            computed,
            seconds,
            self._tokens,
            self._longest(memory),
        )

    def _settings(self, preset: str, sharing: int, micro_steps: int) -> dict[str, Any]:
        """Of DeepSpeed. Raises ConfigError where training would, by the same checks."""
        config, world = self._config, self._cluster.world
        train = replace(config.train, deepspeed=preset, sequence_parallel=sharing)
        folder = RunFolder.of(config)
        settings = deepspeed_settings(
            config.model,
            train,
            micro_steps,
            hidden_size=self._structure.hidden,
            # Not rank 0, which warns of what has no effect on one node.
            who=Ranks(1, world, 1, self._cluster.local),
            swap=folder.root / "swap",
        )
        check_stage(train.lora, settings)
        shared = replace(config, train=train)
        check_model_shares(shared, self._structure.text, folder.model_path(config), world)
        return settings

    def _busiest(self, flops: FloatArray, groups: int, micro_steps: int) -> float:
        """Operations of a step on its critical path: a micro-step lasts as long as its worst bin.

        Bins are dealt as `Plan.assignment` deals them: by cost, side by side.
        """
        table = -np.sort(-_by_step(flops, self._steps), axis=1)
        missing = groups * micro_steps - table.shape[1]
        table = np.pad(table, ((0, 0), (0, missing)))
        worst = table.reshape(len(table), micro_steps, groups).max(axis=2)
        return float(worst.sum(axis=1).mean())

    def _update_seconds(self, zero: Zero) -> float:
        """Of the optimizer: a pass over its state, where that lies."""
        cluster = self._cluster
        size = _OPTIMIZER_PASS * optimizer_share(self._structure, zero, cluster.world)
        if zero.offload_optimizer == "none":
            return size / (cluster.device.bandwidth * LINKS)
        seconds = size * cluster.local / HOST_BANDWIDTH
        if zero.offload_optimizer == "nvme":
            seconds = max(seconds, 24 / _OPTIMIZER_PASS * size * cluster.local / NVME_BANDWIDTH)
        return seconds

    def _memory(
        self,
        structure: Structure,
        zero: Zero,
        checkpointing: bool,
        sharing: int,
        micro_steps: int,
        tokens: int,
    ) -> Memory:
        itemsize, world = self._itemsize, self._cluster.world
        limit = self._config.data.max_length
        supervised = int(self._epoch.plan.supervised.max()) * tokens // limit
        part = -(-tokens // sharing)
        row = activations.Row(part, min(part, max(1, supervised)), sharing)
        share = optimizer_share(structure, zero, world)
        state = model_state(
            structure, zero, itemsize=itemsize, world=world, micro_steps=micro_steps
        )
        held = (state.parameters, state.gradients, state.optimizer)
        return Memory(
            parameters=state.parameters.device,
            gradients=state.gradients.device,
            optimizer=state.optimizer.device,
            activations=activations.kept(
                structure, row, itemsize=itemsize, checkpointing=checkpointing
            ),
            logits=activations.logits(structure, row, itemsize=itemsize),
            buffers=activations.buffers(
                structure,
                zero,
                itemsize=itemsize,
                micro_steps=micro_steps,
                share=share,
            )
            + activations.exchange(structure, row, itemsize=itemsize),
            update=activations.update_bytes(zero, share, itemsize),
            reserve=RESERVE,
            host=sum(one.host for one in held),
            nvme=sum(one.nvme for one in held),
        )

    def _longest(self, memory: Callable[[int], Memory]) -> int:
        """The longest bin that fits, to a multiple of 256 tokens; 0 where none does."""
        low, high = 0, -(-(self._structure.positions or 2**20) // 256)
        while low < high:
            middle = (low + high + 1) // 2
            if memory(256 * middle).total <= self._room:
                low = middle
            else:
                high = middle - 1
        return 256 * low


def _by_step(values: FloatArray, steps: Any) -> FloatArray:
    """A value of each bin, by (step, bin); 0 where a step is short."""
    found: FloatArray = np.where(steps == EMPTY, 0.0, values[steps])
    return found
