"""Bytes that a rank sends in an optimizer step, and the time they take.

Gathering or scattering X bytes over w ranks sends X (w - 1) / w from each; reducing to all ranks
twice that. Flat rings are taken, of those that NCCL can take: all these bytes pass every edge of a
ring, also those between nodes, and there are as many rings as a node has devices, each of which
leaves it through another one. So of d devices a node, each sends a d-th of its bytes to another
node. A step has m micro-steps. Per step, after DeepSpeed 0.19.8 (P parameters, t of them trained):

    stage 2      t reduced to all ranks m times, not scattered; t gathered once, behind the step
    stage 3      P gathered 2 m times, forward and backward; t scattered m times
    ZeRO++       forward gathers in int8; backward ones within the node (hpZ); gradients in int4 to
                 the ranks of a node and again between nodes (arXiv 2306.10209)
    Ulysses      queries, keys, values and what was attended, each exchanged once forward, once
                 backward and once more where layers are run again (arXiv 2309.14509); of X bytes a
                 k-th goes to each of the k ranks; key heads that k does not divide are repeated
    offloading   gradients to the host m times, parameters from the host 2 m times or once
"""

from dataclasses import dataclass

from sumzero.train.devices import Device
from sumzero.train.structure import Structure
from sumzero.train.zero import Zero, persistent_numel


@dataclass(frozen=True)
class Cluster:
    """`world` devices in nodes of `per_node`."""

    device: Device
    world: int
    per_node: int

    @property
    def nodes(self) -> int:
        """How many there are; the last may be partly used."""
        return -(-self.world // self.per_node)

    @property
    def local(self) -> int:
        """Devices of a node that take part."""
        return min(self.world, self.per_node)


@dataclass(frozen=True)
class Traffic:
    """Bytes a rank and step: within a node, between nodes, and between device and host."""

    intra: float = 0.0
    inter: float = 0.0
    host: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.intra + other.intra, self.inter + other.inter, self.host + other.host)

    def __mul__(self, times: float) -> "Traffic":
        return Traffic(self.intra * times, self.inter * times, self.host * times)

    def seconds(self, device: Device, share: float) -> float:
        """Time at a share of the published rates; the links work side by side."""
        times = (
            self.intra / device.link,
            self.inter / device.network,
            self.host / device.host,
        )
        return max(times) / share


@dataclass(frozen=True)
class StepTraffic:
    """What may run beside computation (`hidden`) and what may not (`exposed`)."""

    hidden: Traffic
    exposed: Traffic

    @property
    def total(self) -> Traffic:
        """Both."""
        return self.hidden + self.exposed


def moved(size: float, cluster: Cluster, ranks: int | None = None) -> Traffic:
    """Gathering or scattering `size` bytes over all ranks, or `ranks` neighbours."""
    ranks = cluster.world if ranks is None else ranks
    sent = size * (ranks - 1) / ranks
    if ranks <= cluster.per_node:
        return Traffic(intra=sent)
    crossing = sent / cluster.local
    return Traffic(intra=sent - crossing, inter=crossing)


def exchanged(size: float, cluster: Cluster, ranks: int) -> Traffic:
    """An all-to-all of `size` bytes a rank between `ranks` neighbours."""
    within = min(ranks, cluster.local)
    return Traffic(intra=size * (within - 1) / ranks, inter=size * (ranks - within) / ranks)


def step_traffic(
    structure: Structure,
    zero: Zero,
    cluster: Cluster,
    *,
    itemsize: int,
    micro_steps: int,
    tokens: float,
    sequence_parallel: int = 1,
    checkpointing: bool = False,
) -> StepTraffic:
    """Of a step; `tokens` are a rank's part of a bin, on average."""
    trained = float(itemsize * structure.trained_numel)
    if zero.stage == 3:
        hidden, exposed = _sharded(structure, zero, cluster, itemsize) * micro_steps, Traffic()
    else:
        # Reduced to all ranks: scattered and gathered.
        hidden = moved(trained, cluster) * (2 * micro_steps)
        exposed = moved(trained, cluster)
    if zero.offload_optimizer != "none":
        share = trained / cluster.world
        exposed += Traffic(host=share * micro_steps)
        if zero.offload_parameters == "none":
            exposed += Traffic(host=share)
    if sequence_parallel > 1:
        keys = structure.exchanged_keys(sequence_parallel)
        elements = tokens * (2 * structure.queries + 2 * keys)
        passes = structure.layers * (3 if checkpointing else 2) * micro_steps
        exposed += exchanged(itemsize * elements, cluster, sequence_parallel) * passes
    return (
        StepTraffic(hidden, exposed) if zero.overlaps else StepTraffic(Traffic(), hidden + exposed)
    )


def _sharded(structure: Structure, zero: Zero, cluster: Cluster, itemsize: int) -> Traffic:
    """A micro-step of stage 3."""
    gathered = itemsize * (structure.numel - persistent_numel(structure, zero))
    trained = itemsize * structure.trained_numel
    forward = moved(gathered / (2 if zero.quantizes_weights else 1), cluster)
    backward = moved(gathered, cluster, zero.hpz if zero.hpz > 1 else None)
    if zero.quantizes_gradients and cluster.nodes > 1:
        quarter = trained / (2 * itemsize)
        within = moved(quarter, cluster, cluster.local)
        reduced = within + Traffic(
            inter=quarter / cluster.local * (cluster.nodes - 1) / cluster.nodes
        )
    else:
        reduced = moved(trained, cluster)
    total = forward + backward + reduced
    if zero.offload_parameters != "none":
        total += Traffic(host=2 * gathered / cluster.world)
    return total
