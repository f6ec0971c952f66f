"""`sumzero plan`: what each preset would need and how fast it would be, before any GPU is held.

From the model's configuration and the lengths of the prepared data: memory by part (`zero`,
`activations`), traffic (`communication`) and operations (`flops`) of each preset, with and without
gradient checkpointing. A micro-batch is one bin of `data.max_length` tokens, so the batch is
`train.bins_per_step` bins in as many micro-steps as the ranks need for them.

    step = max(operations / (share of peak), traffic that may be hidden) + the rest of the traffic
           + the optimizer's pass over its state

docs/planner.md says what of this was measured and what is assumed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sumzero import ds_configs
from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.runfolder import RunFolder
from sumzero.train.assemble import make_epochs
from sumzero.train.communication import Cluster
from sumzero.train.epoch import Epoch
from sumzero.train.estimate import Estimate, Option
from sumzero.train.examples import check_prepared, store_file
from sumzero.train.model import attention_facts, check_context, hidden_size
from sumzero.train.sequence_parallel import check_sequence_parallel
from sumzero.train.store import TokenStore
from sumzero.train.structure import Structure

_ULYSSES, _SHARING = "zero3_ulysses", (2, 4, 8)
_ALIKE = 0.02  # speeds that differ by less are taken for equal


@dataclass(frozen=True)
class Outlook:
    """All options; `own` is the recipe's and `chosen` the fastest that fits, None where none does.

    `room` is a device's memory in bytes; `refused` says why a preset cannot run the recipe.
    """

    structure: Structure
    cluster: Cluster
    room: int
    options: tuple[Option, ...]
    own: Option
    chosen: Option | None
    refused: dict[str, str]

    def over(self, option: Option) -> int:
        """Bytes that an option needs beyond what there is; 0: it fits."""
        return max(0, option.memory.total - self.room)


def outlook(config: RunConfig, cluster: Cluster, room: int) -> Outlook:
    """Of a run whose data are prepared.

    Raises RunError where they are not, ConfigError where training refuses the recipe on so many
    ranks, DataError where the model is not there, cannot be trained or its context is too short.
    """
    folder = RunFolder.of(config)
    path = folder.model_path(config)
    if config.model.path != "scratch":
        hidden_size(path, config.model.revision)  # told before data that it would be prepared with
    check_prepared(config, folder)
    check_sequence_parallel(config, path, cluster.world)
    groups = cluster.world // config.train.sequence_parallel
    if groups > config.train.bins_per_step:
        raise ConfigError(
            f"--gpus: {cluster.world} GPUs take {groups} bins at once, but a step has "
            f"train.bins_per_step = {config.train.bins_per_step}; raise it, or take fewer GPUs"
        )
    attention_facts(path, config.model.revision)  # told before a model without is taken apart
    structure = Structure.of(config)
    check_context(path, config.data.max_length, config.model.revision)
    epochs = make_epochs(TokenStore(store_file(folder, "train")), config, structure.hidden)
    return weigh(config, structure, epochs.epoch(0), cluster, room)


def weigh(
    config: RunConfig, structure: Structure, epoch: Epoch, cluster: Cluster, room: int
) -> Outlook:
    """The same for a model and an epoch at hand."""
    estimate = Estimate(config, structure, epoch, cluster, room)
    train = config.train
    wanted = (train.deepspeed, train.gradient_checkpointing, train.sequence_parallel)
    own = estimate.option(*wanted)
    options: list[Option] = []
    refused: dict[str, str] = {}
    for choice in _choices(config, structure, cluster):
        try:
            options.append(own if choice == wanted else estimate.option(*choice))
        except ConfigError as error:
            refused[choice[0]] = str(error)
    fitting = [option for option in options if option.memory.total <= room]
    chosen = None
    if fitting:
        fastest = max(option.rate for option in fitting)
        alike = [option for option in fitting if option.rate >= fastest * (1 - _ALIKE)]
        chosen = own if own in alike else min(alike, key=lambda option: option.memory.total)
    return Outlook(structure, cluster, room, tuple(options), own, chosen, refused)


def _choices(
    config: RunConfig, structure: Structure, cluster: Cluster
) -> Iterator[tuple[str, bool, int]]:
    """Preset, checkpointing, ranks that share a bin; the recipe's own among them."""
    train = config.train
    names = sorted(file.stem for file in Path(ds_configs.__file__).parent.glob("*.json"))
    found = []
    for name in names:
        for sharing in _SHARING if name == _ULYSSES else (1,):
            fits = cluster.world % sharing == 0 and structure.heads % sharing == 0
            enough = cluster.world // sharing <= train.bins_per_step
            found += [(name, recompute, sharing) for recompute in (False, True) if fits and enough]
    own = (train.deepspeed, train.gradient_checkpointing, train.sequence_parallel)
    yield from found if own in found else [own, *found]
