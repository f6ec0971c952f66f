"""Sets of adapters of one base, generated with in one pass: each of them is a system of its own.

A record's requests with all of them run side by side in one engine, which has the base once.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sumzero.adapter import adapter_digest, open_adapter
from sumzero.config import RunConfig, Source
from sumzero.contract import Contract, check_stop_ids, open_contract
from sumzero.errors import ConfigError, RunError
from sumzero.infer.answering import Answering, answers, model_under, start_engines
from sumzero.infer.engine import Completion, Failure, Request
from sumzero.infer.generate import drop_other_times, merge_job, merged, note_time, shown
from sumzero.infer.generation import SYSTEMS, Generation, found
from sumzero.infer.inputs import Inputs
from sumzero.infer.job import Job, job_of, read_inputs
from sumzero.infer.rows import Nodes, Parts, Row, there
from sumzero.infer.shards import Shard, appending
from sumzero.log import logger
from sumzero.prompt import PromptRenderer
from sumzero.records import Record
from sumzero.weights_digest import weights_digest

_NAME = re.compile(r"\w[\w.-]*")  # as runs are called


@dataclass(frozen=True)
class Adapter:
    """A folder in peft's format with the contract it was trained under; `name` is its system."""

    name: str
    folder: Path


def parse_adapters(options: Iterable[str]) -> list[Adapter]:
    """From FOLDER or NAME=FOLDER each; a run's adapter/ is called as the run, others as the folder.

    Raises ConfigError where a folder is missing, or a name is none or taken.
    """
    found: dict[str, Adapter] = {}
    for option in options:
        name, named, text = option.partition("=")
        if not named or Path(option).is_dir():  # whose own path may hold the sign
            named, text = "", option
        folder = Path(text)
        if not folder.is_dir():
            raise ConfigError(f"--adapter {option}: there is no folder {text}")
        if not named:
            where = folder.resolve()
            name = where.parent.name if where.name == "adapter" else where.name
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--adapter {option}: {name!r} is no name; write NAME={text}")
        if name in SYSTEMS or name in found:
            raise ConfigError(
                f"--adapter {option}: {name!r} is taken; give it another name: NAME={text}"
            )
        found[name] = Adapter(name, folder)
    return list(found.values())


def generate_adapted(
    config: RunConfig, adapters: Sequence[Adapter], input_file: str | None = None
) -> list[Generation]:
    """Generates with each of the adapters, as `generate` does with a system, and merges.

    Raises ConfigError, DataError or RunError for what the user can mend, such as adapters of
    another base or another contract than the first.
    """
    jobs = _jobs(config, adapters, input_file)
    done = {job.system: found(job.where) for job in jobs}
    for job in jobs:
        if done[job.system]:
            logger.info("generated already: %s", job.where)
    _make([job for job in jobs if not done[job.system]], Shard(0, 1))
    return [done[job.system] or merged(job) for job in jobs]


def generate_adapted_shard(
    config: RunConfig, adapters: Sequence[Adapter], shard: Shard, input_file: str | None = None
) -> list[tuple[Path, int, int]]:
    """Generates one shard's records with each; for each what `generate_shard` returns."""
    jobs = _jobs(config, adapters, input_file)
    _make([job for job in jobs if not (job.where / "manifest.json").is_file()], shard)
    return [job.progress() for job in jobs]


def merge_adapted(
    config: RunConfig, adapters: Sequence[Adapter], input_file: str | None = None
) -> list[Generation]:
    """Merges what shards have generated. Raises RunError where a row of one is missing."""
    return [merge_job(job) for job in _jobs(config, adapters, input_file)]


def _jobs(config: RunConfig, adapters: Sequence[Adapter], input_file: str | None) -> list[Job]:
    base, contract, renderer, digest = _opened(adapters, config)
    inputs = read_inputs(config, adapters[0].name, input_file)
    model, made_by = model_under(contract, renderer, base, config, inputs, digest)
    jobs = []
    for adapter in adapters:
        with_it = replace(model, adapters=(adapter.folder,))
        by = {**made_by, "adapter": adapter_digest(adapter.folder)}
        jobs.append(job_of(config, adapter.name, inputs, by, input_file, model=with_it))
    return jobs


def _opened(
    adapters: Sequence[Adapter], config: RunConfig
) -> tuple[Path, Contract, PromptRenderer, Callable[[Path], str]]:
    """Their base, their contract, and the digest of the base, which reads it only once."""
    digest = cache(weights_digest)
    first, *others = (adapter.folder for adapter in adapters)
    base = open_adapter(first, config.model.revision, digest)
    contract, renderer = open_contract(first)
    check_stop_ids(base, contract.stop_ids)
    for folder in others:
        its_base = open_adapter(folder, config.model.revision, digest)
        if digest(its_base) != digest(base):
            raise RunError(
                f"{folder}: its base {its_base} has other weights than {base}, the base of "
                f"{first}; generate with it by itself"
            )
        its = open_contract(folder)[0]
        if names := [name for name, value in vars(its).items() if value != vars(contract)[name]]:
            raise RunError(
                f"{folder}: its contract is not that of {first}; differs: {', '.join(names)}; "
                "generate with it by itself"
            )
    return base, contract, renderer, digest


def _make(jobs: Sequence[Job], shard: Shard) -> None:
    """Generates the rows of a shard that are not there, of all jobs at once."""
    if not jobs:
        return
    config, inputs = jobs[0].config, jobs[0].inputs
    with ExitStack() as held:
        for job in sorted(jobs, key=lambda job: job.where):  # so that no two wait for each other
            held.enter_context(shard.held(job.where))
        mine = shard.of(inputs.sizes, inputs.document_hashes, config.generate.max_new_tokens)
        rows_there = [there(job.where, inputs) for job in jobs]
        lacking_JN = np.stack([~rows.has[mine] for rows in rows_there])
        for job in jobs:
            drop_other_times(job, shard)
        if not lacking_JN.any():
            return
        models = [job.model for job in jobs if job.model is not None]
        adapters = tuple(folder for model in models for folder in model.adapters)
        model = replace(models[0], adapters=adapters)
        total = int(lacking_JN.sum())
        engines = held.enter_context(start_engines(model, config, total))
        begun = time.perf_counter()
        records = _marked(inputs, mine, lacking_JN)
        parts = _parts([rows.nodes for rows in rows_there])
        rows = answers(_Adapted(engines, adapters), records, config, model, parts)
        writes = [held.enter_context(appending(shard.file(job.where))) for job in jobs]
        names = ", ".join(job.system for job in jobs)
        for row in shown(rows, names, total):
            number, _ = _told(row["id"])
            writes[number](_unmarked(row))
        seconds = time.perf_counter() - begun
        for job, count in zip(jobs, lacking_JN.sum(1), strict=True):
            note_time(job, shard, engines.seconds_start, seconds, int(count))


class _Adapted:
    """An engine whose requests run with the adapters whose number their ids begin with."""

    def __init__(self, engine: Answering, adapters: Sequence[Path]) -> None:
        self._engine = engine
        self._adapters = adapters

    def generate(
        self, requests: Iterable[Request | None], stop_ids: list[int], seed: int
    ) -> Iterator[Completion | Failure]:
        """See `Engine.generate`."""
        with_them = (
            request and replace(request, adapter=self._adapters[_told(request.id)[0]])
            for request in requests
        )
        return self._engine.generate(with_them, stop_ids, seed)


def _parts(of_jobs: Sequence[Nodes]) -> Parts:
    """The parts that each job has of its documents, under marked ids."""

    def marked(record_id: str) -> dict[str, Row]:
        number, own = _told(record_id)
        rows = of_jobs[number].of(own)
        return {f"{number}:{id_}": {**row, "id": f"{number}:{id_}"} for id_, row in rows.items()}

    return marked


def _marked(
    inputs: Inputs, numbers: NDArray[np.int64], lacking_JN: NDArray[np.bool_]
) -> Iterator[tuple[Record, Source]]:
    """The inputs of these numbers, once for each job that lacks them, marked with its number."""
    lacked = lacking_JN.any(0)
    records = inputs.of(numbers[lacked])
    for by_job, (record, source) in zip(lacking_JN[:, lacked].T, records, strict=True):
        for number in np.flatnonzero(by_job).tolist():
            yield replace(record, id=f"{number}:{record.id}"), source


def _unmarked(row: Row) -> Row:
    """A row with its record's own id, and those of the parts of its document."""
    own: Row = {name: _told(row[name])[1] for name in ("id", "of") if name in row}
    if "error" in row and row["error"].startswith(row["id"]):  # of a part, by its id
        own["error"] = _told(row["error"])[1]
    for level in row["tree"]["levels"] if "tree" in row else ():
        for node in level:
            node["id"] = _told(node["id"])[1]
    return row | own


def _told(id_: str) -> tuple[int, str]:
    """Number and id of a marked id."""
    number, _, own = id_.partition(":")
    return int(number), own
