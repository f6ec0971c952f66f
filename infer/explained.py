"""What `sumzero explain` explains: a system's newest generation, its model, and a sample of rows.

Prompts are rendered with the settings that the generation was made with, whatever the run has now,
and by the model that made it: where weights, contract or records are others, it is refused.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from sumzero.config import Generate, RunConfig, Source
from sumzero.errors import ConfigError, RunError
from sumzero.infer.answering import Model
from sumzero.infer.generation import SYSTEMS, Generation, finished_generations
from sumzero.infer.job import Job, open_job
from sumzero.infer.sampling import without_texts
from sumzero.records import Record
from sumzero.runfolder import RunFolder

OWN = ("finetuned", "untrained")
# Of the settings of [generate], those of the machine: they are the run's, not the generation's.
_MACHINE = (
    "engines",
    "tensor_parallel",
    "gpu_memory_utilization",
    "cpu_kv_cache_gib",
    "enforce_eager",
    "max_in_flight",
)


@dataclass(frozen=True)
class Chosen:
    """The summaries to be explained, by their records' numbers, in the order of the draw.

    `left_out` counts those that cannot be explained, by reason; `in_parts` are those that were made
    of summaries of parts.
    """

    numbers: list[int]
    ids: dict[int, str]
    texts: dict[int, str]
    in_parts: set[int]
    rows: int
    left_out: dict[str, int]


@dataclass(frozen=True)
class Explained:
    """A generation, the job that it is of, with the generation's own settings, and its model."""

    config: RunConfig
    system: str
    generation: Generation
    job: Job
    model: Model

    def choose(self, sample: int, ids: Sequence[str]) -> Chosen:
        """A seeded sample of the summaries, or those of `ids`.

        A larger sample has all of a smaller one. Raises RunError where there is none to explain, or
        an id has no summary.
        """
        usable: list[int] = []
        of_ids: dict[str, int] = {}
        left_out = {"failed": 0, "empty": 0}
        wanted = set(ids)
        number = -1
        for number, row in enumerate(self.generation.each_row()):
            reason = "failed" if "error" in row else "" if row["text"].strip() else "empty"
            if reason:
                left_out[reason] += 1
            else:
                usable.append(number)
            if row["id"] in wanted:
                if reason:
                    raise RunError(f"--id {row['id']}: its summary is {reason}; nothing to explain")
                of_ids[row["id"]] = number
        if missing := [id_ for id_ in ids if id_ not in of_ids]:
            raise RunError(f"--id {missing[0]}: no row of {self.generation.folder} has this id")
        if not usable:
            raise RunError(
                f"{self.generation.folder}: no summary to explain: {left_out['failed']} rows "
                f"failed, {left_out['empty']} are empty"
            )
        draws = np.random.default_rng(self.config.seed)
        drawn = draws.permutation(np.array(usable))[:sample].tolist()
        numbers = list(dict.fromkeys(of_ids[id_] for id_ in ids)) if ids else drawn
        chosen = Chosen(numbers, {}, {}, set(), number + 1, left_out)
        self._read(chosen)
        return chosen

    def _read(self, chosen: Chosen) -> None:
        wanted = set(chosen.numbers)
        for number, row in enumerate(self.generation.each_row()):
            if number in wanted:
                chosen.ids[number], chosen.texts[number] = row["id"], row["text"]
                if "tree" in row:
                    chosen.in_parts.add(number)

    def records(self, numbers: Iterable[int]) -> Iterator[tuple[Record, Source]]:
        """The records of these numbers, each with its source."""
        return self.job.inputs.of(np.array(list(numbers), np.int64))

    def engine_settings(self, left_free: float) -> Generate:
        """Those of the generation for an engine that scores, with this share of a GPU left free."""
        share = self.config.generate.gpu_memory_utilization
        return replace(
            without_texts(self.config.generate),
            prefix_caching=False,  # vLLM does not read it for prompts that are scored
            gpu_memory_utilization=max(0.1, share - left_free),
        )


def open_explained(config: RunConfig, system: str) -> Explained:
    """The newest generation of a system.

    Raises ConfigError for a system that no model here can score, RunError where there is nothing
    generated, or the model, its contract or the records are not those of the generation.
    """
    folder = RunFolder.of(config)
    if system in SYSTEMS and system not in OWN:
        raise ConfigError(f"--system {system}: no model wrote these texts; explain finetuned")
    generations = finished_generations(folder)
    if system not in generations:
        there = ", ".join(generations) or "none"
        raise RunError(
            f"{folder.generations}: nothing generated by {system!r} yet (there is: {there}); run "
            "`sumzero generate` first"
        )
    generation = generations[system]
    manifest = generation.manifest
    if system not in OWN:
        why = (
            "it was made with adapters; merge them into an export (`sumzero export`) to explain it"
            if "adapter" in manifest
            else "the server of such a model does not tell the log-probabilities of a given text; "
            f"{' and '.join(OWN)} can be explained"
        )
        raise ConfigError(f"--system {system}: {why}")
    as_made = replace(config, seed=manifest["seed"], generate=_settings(generation))
    job = open_job(as_made, system, None)
    names = [
        name
        for name, value in job.made_by.items()
        if name != "engine" and manifest.get(name) != value
    ]
    if names:
        raise RunError(
            f"{generation.folder}: the summaries of {system} were made otherwise; what differs "
            f"now: {', '.join(names)}. Run `sumzero generate` again"
        )
    assert job.model is not None
    machine: dict[str, Any] = {name: getattr(config.generate, name) for name in _MACHINE}
    as_made = replace(config, generate=replace(as_made.generate, **machine))
    return Explained(as_made, system, generation, job, job.model)


def _settings(generation: Generation) -> Generate:
    try:
        text = json.dumps(generation.manifest["sampling"])
        return TypeAdapter(Generate).validate_json(text)
    except ValidationError:
        raise RunError(
            f"{generation.folder}: made by another version of sumzero; run `sumzero generate` again"
        ) from None
