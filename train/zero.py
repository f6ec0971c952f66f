"""What ZeRO keeps of a model: bytes of parameters, gradients and optimizer, a rank.

After DeepSpeed 0.19.8's runtime/zero/stage_1_and_2.py and stage3.py, which allocate more than the
papers' 2 + 2 + 12 bytes a parameter: stage 2 keeps whole gradients of parameters that cross a
border between ranks, offloading keeps gradients twice, and float32 models have float32 master
weights beside them all the same. tests/train/test_zero.py holds these formulas to what is really
allocated.
"""

import math
from dataclasses import dataclass
from typing import Any

from sumzero.train.layout import zero_stage
from sumzero.train.structure import Structure, Weight

_MASTER_AND_MOMENTS = 12  # bytes a trained parameter: float32 weight and AdamW's two moments
_NF4 = 0.5 + 4 / 64  # bytes a parameter: 4 bits, and a float32 scale for each 64 (bitsandbytes)


@dataclass(frozen=True)
class Zero:
    """The keys of a DeepSpeed configuration that decide about memory and communication.

    Sizes of buckets and thresholds are in elements.
    """

    stage: int
    reduce_bucket: int
    prefetch_bucket: int
    persistence: int
    max_live: int
    max_reuse: int
    sub_group: int
    overlaps: bool
    contiguous: bool
    offload_optimizer: str
    offload_parameters: str
    hpz: int
    quantizes_weights: bool
    quantizes_gradients: bool
    accumulates_float32: bool

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Zero":
        """Of a whole DeepSpeed configuration, with DeepSpeed's defaults."""
        zero = settings.get("zero_optimization", {})
        stage = zero_stage(settings)
        accumulation = settings.get("data_types", {}).get("grad_accum_dtype")

        def size(name: str, default: float) -> int:
            given = zero.get(name, zero.get(f"stage3_{name}", default))
            return int(default if given == "auto" else given)

        def device(name: str) -> str:
            return str((zero.get(name) or {}).get("device", "none"))

        return cls(
            stage=stage,
            reduce_bucket=size("reduce_bucket_size", 5e8),
            prefetch_bucket=size("prefetch_bucket_size", 5e7),
            persistence=size("param_persistence_threshold", 1e5),
            max_live=size("max_live_parameters", 1e9),
            max_reuse=size("max_reuse_distance", 1e9),
            sub_group=size("sub_group_size", 1e9),
            overlaps=bool(zero.get("overlap_comm", stage == 3)),
            contiguous=bool(zero.get("contiguous_gradients", True)),
            offload_optimizer=device("offload_optimizer"),
            offload_parameters=device("offload_param") if stage == 3 else "none",
            hpz=size("zero_hpz_partition_size", 1) if stage == 3 else 1,
            quantizes_weights=bool(zero.get("zero_quantized_weights", False)),
            quantizes_gradients=bool(zero.get("zero_quantized_gradients", False)),
            accumulates_float32=accumulation in ("fp32", "float32"),
        )


@dataclass(frozen=True)
class Held:
    """Bytes on the device, in the host's memory and on NVMe."""

    device: int = 0
    host: int = 0
    nvme: int = 0

    @property
    def total(self) -> int:
        """Wherever they are."""
        return self.device + self.host + self.nvme


@dataclass(frozen=True)
class ModelState:
    """What stays from step to step; gradients as they are when a step is about to end."""

    parameters: Held
    gradients: Held
    optimizer: Held


def model_state(
    structure: Structure, zero: Zero, *, itemsize: int, world: int, micro_steps: int
) -> ModelState:
    """Of the rank that holds most. `itemsize` is the model's: 2 in bfloat16, 4 in float32."""
    share = optimizer_share(structure, zero, world)
    accumulated = 4 if zero.accumulates_float32 else itemsize
    held = _MASTER_AND_MOMENTS * share
    optimizer = {
        "cpu": Held(host=held),
        "nvme": Held(nvme=held),
    }.get(zero.offload_optimizer, Held(device=held))
    return ModelState(
        _parameters(structure, zero, itemsize, world),
        _gradients(structure, zero, itemsize, accumulated, share, world, micro_steps),
        optimizer,
    )


def persistent_numel(structure: Structure, zero: Zero) -> int:
    """Elements of parameters that every rank keeps whole under stage 3: norms and biases."""
    return sum(w.numel for w in structure.weights if w.numel <= zero.persistence)


def optimizer_share(structure: Structure, zero: Zero, world: int) -> int:
    """Trained elements whose master weights a rank holds."""
    if zero.stage == 3:  # each parameter is cut by itself
        return sum(math.ceil(w.numel / world) for w in structure.weights if w.trained)
    return sum(size // world for size in _flat_sizes(structure, world))


def _groups(structure: Structure) -> list[list[Weight]]:
    """The optimizer's: matrices, which decay, and vectors."""
    trained = [weight for weight in structure.weights if weight.trained]
    groups = [[w for w in trained if (len(w.shape) >= 2) is decays] for decays in (True, False)]
    return [group for group in groups if group]


def _flat_sizes(structure: Structure, world: int) -> list[int]:
    """Elements of each group's flat buffer, which is padded to twice the ranks."""
    unit = 2 * world
    return [-(-sum(w.numel for w in group) // unit) * unit for group in _groups(structure)]


def _parameters(structure: Structure, zero: Zero, itemsize: int, world: int) -> Held:
    sizes: dict[bool, float] = {}
    for trained in (True, False):
        weights = [w for w in structure.weights if w.trained is trained]
        if structure.base == "4bit" and not trained:
            matrices = sum(w.numel for w in weights if w.use == "matrix" and w.layer is not None)
            rest = sum(w.numel for w in weights) - matrices
            sizes[trained] = matrices * _NF4 + rest * itemsize  # whole on every rank
        elif zero.stage == 3:
            sizes[trained] = itemsize * sum(math.ceil(w.numel / world) for w in weights)
        else:
            sizes[trained] = itemsize * sum(w.numel for w in weights)
    split = math.ceil(sizes[True] + sizes[False])
    if zero.stage < 3:
        return Held(device=split)
    whole = itemsize * persistent_numel(structure, zero)
    if zero.hpz > 1:  # a second copy, split over the ranks of a node
        whole += itemsize * sum(math.ceil(w.numel / zero.hpz) for w in structure.weights)
    if zero.offload_parameters == "none":
        return Held(device=split + whole)
    if zero.offload_parameters == "nvme":
        return Held(device=whole, nvme=split)
    return Held(device=whole, host=split)


def _gradients(
    structure: Structure,
    zero: Zero,
    itemsize: int,
    accumulated: int,
    share: int,
    world: int,
    micro_steps: int,
) -> Held:
    offloads = zero.offload_optimizer != "none"
    if zero.stage == 3:
        flat = accumulated * share
        # What AdamW on the host reads is kept beside what micro-steps add up to.
        return Held(host=flat + 4 * share) if offloads else Held(device=flat)
    touched = itemsize * _touched(structure, world)
    if not offloads:
        return Held(device=4 * share if accumulated > itemsize else touched)
    largest = itemsize * max(w.numel for w in structure.weights if w.trained)
    host = 4 * share + itemsize * share + largest
    if accumulated > itemsize:
        return Held(device=4 * share + largest, host=host)
    return Held(device=largest, host=host + (touched if micro_steps > 1 else 0))


def _touched(structure: Structure, world: int) -> int:
    """Elements of the parameters, whole, of which a rank of stage 2 holds a part; the most."""
    most = [0] * world
    for group, size in zip(_groups(structure), _flat_sizes(structure, world), strict=True):
        part, begin = size // world, 0
        for weight in group:
            end = begin + weight.numel
            for rank in range(begin // part, min(world, -(-end // part))):
                most[rank] += weight.numel
            begin = end
    return max(most)
