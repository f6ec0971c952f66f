"""The jobs that take a run from its records to its scores, and what each waits for.

    prepare -> convert -> train -> export -> generate (an array) -> score
                            `---> score-checkpoints ---^

Each waits for the one before it to end well; the scoring of checkpoints runs beside the training.
A conversion is there only where the newest checkpoint is of another number of ranks.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import ConfigError
from sumzero.jobs import STEPS
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder

BEST_BY_ROUGE = "best-rouge"
_SIDE = "score-checkpoints"
# What a step's result depends on, besides the steps before it.
_SECTIONS = {
    "prepare": ("model", "data", "seed"),
    "train": ("train",),
    "generate": ("data.test", "generate"),
    "score": ("score", "endpoint"),  # of a judge
}


@dataclass(frozen=True)
class Shape:
    """What the jobs take of the cluster; `shards` is the size of the array that generates."""

    nodes: int
    gpus_per_node: int
    ranks_per_node: int
    shards: int

    @property
    def ranks(self) -> int:
        """Training processes in all."""
        return self.nodes * self.ranks_per_node

    def __str__(self) -> str:
        gpus = f"{self.gpus_per_node} GPUs" if self.gpus_per_node else "no GPU"
        return (
            f"{self.nodes} nodes with {self.ranks_per_node} ranks and {gpus} each; "
            f"{self.shards} tasks generate"
        )


def _newest(folder: RunFolder) -> str | None:
    """The newest checkpoint; torch, which takes seconds to load, only where there are any."""
    if not folder.checkpoints.is_dir():
        return None
    from sumzero.train import checkpoint

    return checkpoint.newest(folder.checkpoints)


# What a step leaves, and the one after it needs.
_RESULTS: dict[str, tuple[str, Callable[[RunFolder], bool]]] = {
    "prepare": ("no prepared data", lambda folder: folder.data_report.is_file()),
    "train": ("no checkpoint", lambda folder: _newest(folder) is not None),
    "export": ("no export", lambda folder: folder.export.is_dir()),
    "generate": ("nothing generated", lambda folder: folder.generations.is_dir()),
    "score": ("no scores", lambda folder: folder.scores.is_file()),
}


@dataclass(frozen=True)
class Step:
    """A job to be: its script's options for sbatch and arguments after the run file.

    `settings` is a digest of what its result depends on; `tasks` the size of its array, or 0.
    """

    name: str
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    settings: str
    tasks: int = 0

    @property
    def script(self) -> str:
        """Its file in slurm/."""
        return f"{self.name.replace('-', '_')}.sbatch"

    @property
    def is_beside(self) -> bool:
        """Whether it runs beside the chain."""
        return self.name == _SIDE

    def is_done(self, folder: RunFolder) -> bool:
        """Whether its result is there, of whatever settings."""
        return self.name in _RESULTS and _RESULTS[self.name][1](folder)

    def after(self, jobs: dict[str, str]) -> str:
        """What it waits for, in sbatch's words; `jobs` are those of the steps before it."""
        if self.is_beside:
            return f"after:{jobs['train']}" if "train" in jobs else ""
        before = [step for step in jobs if step != _SIDE][-1:]
        if self.name == "export" and _SIDE in jobs:
            before.append(_SIDE)
        return ",".join(f"afterok:{jobs[step]}" for step in before)


def chain(
    config: RunConfig, wanted: Sequence[str], shape: Shape, score_checkpoints: bool
) -> list[Step]:
    """The wanted steps, in order. Raises ConfigError where the settings have nothing for one."""
    _check(config, wanted, score_checkpoints)
    gpus = shape.gpus_per_node
    # What loads the model through vLLM.
    served = (f"--gpus-per-node={config.generate.tensor_parallel}",) if gpus else ()
    train: tuple[str, ...] = (f"--nodes={shape.nodes}", f"--ntasks-per-node={shape.ranks_per_node}")
    if gpus:
        train += (f"--gpus-per-node={gpus}",)
    of_step = {
        "train": train,
        "export": served,
        "generate": (f"--array=0-{shape.shards - 1}", *served),
    }
    settings = digests(config)
    export: tuple[str, ...] = ()
    if score_checkpoints:
        export = ("--checkpoint", BEST_BY_ROUGE)
        settings["export"] += f":{BEST_BY_ROUGE}"
    steps = []
    for name in STEPS:
        if name not in wanted:
            continue
        options = of_step.get(name, ())
        arguments = export if name == "export" else ()
        tasks = shape.shards if name == "generate" else 0
        if name == "train":
            steps += _convert(config, shape, settings["train"])
        steps.append(Step(name, options, arguments, settings[name], tasks))
        if name == "train" and score_checkpoints:
            steps.append(Step(_SIDE, served, ("--follow",), settings["score"]))
    return steps


def lacks(steps: Sequence[Step], folder: RunFolder) -> str | None:
    """What one of these steps needs and neither is there nor made by another, and its maker."""
    names = [step.name for step in steps if step.name in STEPS]
    for name in names:
        if name == STEPS[0]:
            continue
        maker = STEPS[STEPS.index(name) - 1]
        what, is_there = _RESULTS[maker]
        if maker not in names and not is_there(folder):
            return f"{folder.root}: {what} for `{name}`; add {maker} to --steps"
    return None


def _convert(config: RunConfig, shape: Shape, digest: str) -> list[Step]:
    folder = RunFolder.of(config)
    newest = _newest(folder)
    if newest is None:
        return []
    from sumzero.train.manifest import read_state

    ranks = read_state(folder.checkpoints, newest)["checkpoint"]["layout"]["ranks"]
    if ranks == shape.ranks:
        return []
    return [Step("convert", (), (), f"{digest}:{newest}:{shape.ranks}")]


def _check(config: RunConfig, wanted: Sequence[str], score_checkpoints: bool) -> None:
    faults = []
    if "prepare" in wanted and not config.data.train:
        faults.append("data.train: no training data; set data.train.path")
    if {"generate", "score"} & set(wanted) and not config.data.test:
        faults.append(
            "data.test: no records to generate for; set data.test.path, or --steps "
            "prepare,train,export"
        )
    if score_checkpoints and "train" not in wanted:
        faults.append("--score-checkpoints: goes with train; add it to --steps")
    if score_checkpoints and not config.data.validation:
        faults.append(
            "--score-checkpoints: the best checkpoint is not chosen by the test records; set "
            "data.validation.path"
        )
    if score_checkpoints and not (config.train.save_every or config.train.save_minutes):
        faults.append(
            "--score-checkpoints: only the last checkpoint would be there; set train.save_every"
        )
    if faults:
        raise ConfigError(faults)


def digests(config: RunConfig) -> dict[str, str]:
    """Of each step, over the settings that its result and those before it depend on."""
    values: dict[str, Any] = as_dict(config)
    values["data.test"] = values["data"].pop("test")  # of use to those that generate only
    known: dict[str, Any] = {}
    found = {}
    for name in STEPS:
        for section in _SECTIONS.get(name, ()):
            known[section] = values[section]
        text = json.dumps(known, sort_keys=True)
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found
