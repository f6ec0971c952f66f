"""Generations + references -> scores.json and row_scores.parquet: every metric of every system.

Records and rows are read side by side (pairs.py) and measured in processes (measures.py); of a row
only numbers are kept. Intervals are bootstrapped over records, of all of them and of slices: by
task, language, length of the document, and by what was cut (slices.py).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer import bleu
from sumzero.infer.bootstrap import FloatArray, Interval, intervals
from sumzero.infer.faithfulness import Faithfulness
from sumzero.infer.generation import Generation, finished_generations
from sumzero.infer.measures import COLUMNS, Batch, MeasuredBatch, measure, signatures
from sumzero.infer.pairs import Pairs, unfinished
from sumzero.infer.row_scores import STATISTICS, write_row_scores
from sumzero.infer.slices import Slice, slices
from sumzero.infer.worker_pool import WorkerPool, cores, worker_pool
from sumzero.log import logger, progress
from sumzero.runfolder import RunFolder, write_json

_WORTH_PROCESSES = 4000  # rows: processes take a second to start
_Arrays = dict[str, FloatArray]


def score(config: RunConfig) -> dict[str, Any]:
    """Scores the newest finished generation of each system; writes what the module says.

    A row that ended in an error counts as an empty summary. Systems whose generation is not of
    these records, or not finished, are left out and named. Raises RunError where none is left, and
    DataError where no record has a reference.
    """
    if not config.data.test:
        raise ConfigError("data.test: no references to score against; set data.test.path")
    folder = RunFolder.of(config)
    generations, begun = finished_generations(folder), unfinished(folder)
    if not generations:
        raise RunError(
            begun[0]
            if begun
            else f"{folder.generations}: nothing generated yet; run `sumzero generate` first"
        )
    rows = sum(generation.manifest["rows"] for generation in generations.values())
    pairs = Pairs(config, generations)
    processes = cores() if rows >= _WORTH_PROCESSES else 1
    with Faithfulness(config) as faithful, worker_pool(processes) as pool:
        passing = faithful.passing(pairs)
        found = _measured(passing, pool, max(one.manifest["rows"] for one in generations.values()))
        systems = {
            system: _score_system(system, generation, config, (pairs, found, faithful), pool)
            for system, generation in generations.items()
            if system not in pairs.left_out
        }
    scores: dict[str, Any] = {"systems": systems}
    left_out = [*map(str, pairs.left_out.values()), *begun]
    for what in left_out:
        logger.warning("not scored: %s", what)
    if left_out:
        scores["left_out"] = left_out
    write_json(folder.scores, scores)
    return scores


def _measured(batches: Iterable[Batch], pool: WorkerPool, total: int) -> list[MeasuredBatch]:
    found = []
    with progress(iter(()), "scoring", total=total, unit=" records") as bar:
        for batch in pool.map(measure, batches):
            found.append(batch)
            bar.update(len(batch.document_words))
    return found


def _score_system(
    system: str,
    generation: Generation,
    config: RunConfig,
    measured: tuple[Pairs, list[MeasuredBatch], Faithfulness],
    pool: WorkerPool,
) -> dict[str, Any]:
    """Writes a system's row_scores.parquet, and returns its part of scores.json."""
    pairs, batches, faithful = measured
    columns = _columns(system, pairs, batches)
    by_models = faithful.columns(system)
    columns |= by_models
    num = len(columns["id"])
    values = {name: columns[name] for name in COLUMNS if name in columns}
    counts = {x: columns[x + STATISTICS] for x in bleu.METRICS if x + STATISTICS in columns}
    tokenizers: dict[str, set[str]] = {}
    for batch in batches:
        for task, names in batch.tokenizers.items():
            tokenizers.setdefault(task, set()).update(names)
    signed = signatures([*values, *counts], tokenizers, pairs.translated)
    signed |= {name: faithful.signatures[name] for name in by_models}
    values |= by_models
    write_row_scores(generation, columns, signatures=signed, references=pairs.references)
    parts = slices(columns)
    every = Slice("", "", np.ones(num, np.bool_))
    whole, *of_parts = pool.map(
        partial(_intervals, resamples=config.score.bootstrap, seed=config.seed),
        ((_of(values, part), _of(counts, part)) for part in (every, *parts)),
    )
    return {
        "rows": num,
        "without_reference": generation.manifest["rows"] - num,
        "metrics": {
            name: {**_rounded(interval), "signature": signed[name]}
            for name, interval in whole.items()
        },
        "slices": [
            {
                "by": part.by,
                "is": part.label,
                "rows": int(part.rows.sum()),
                "metrics": {name: _rounded(interval) for name, interval in found.items()},
            }
            for part, found in zip(parts, of_parts, strict=True)
        ],
    }


def _columns(system: str, pairs: Pairs, batches: list[MeasuredBatch]) -> dict[str, Any]:
    """The columns of a system's row_scores.parquet: metrics that apply to a row at least."""
    of = [batch.systems.pop(system) for batch in batches]  # and held no longer
    ends = pairs.ends[system]
    columns: dict[str, Any] = {
        **pairs.about,
        "document_words": np.concatenate([batch.document_words for batch in batches]),
        "summary_words": np.concatenate([measured.words for measured in of]),
        "truncated": np.frombuffer(ends.truncated, np.bool_),
        "failed": np.frombuffer(ends.failed, np.bool_),
        "finish_reason": ends.finish_reason,
    }
    values = np.concatenate([measured.values for measured in of])
    for place, name in enumerate(COLUMNS):
        if not np.isnan(values[:, place]).all():
            columns[name] = np.ascontiguousarray(values[:, place])
    if any(measured.counts for measured in of):
        for name, width in bleu.WIDTHS.items():
            none = [np.full((len(measured.words), width), np.nan) for measured in of]
            columns[name + STATISTICS] = np.concatenate(
                [one.counts.get(name, lacking) for one, lacking in zip(of, none, strict=True)]
            )
    return columns


def _of(arrays: _Arrays, part: Slice) -> _Arrays:
    return {name: array[part.rows] for name, array in arrays.items()}


def _intervals(
    arrays: tuple[_Arrays, _Arrays], *, resamples: int, seed: int
) -> dict[str, Interval]:
    return intervals(*arrays, resamples=resamples, seed=seed)


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, 4) for name, value in interval._asdict().items()}
