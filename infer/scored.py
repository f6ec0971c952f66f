"""A run as far as it was scored: scores.json, and the rows of each system that stands there."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.errors import RunError
from sumzero.infer.bleu import corpus_score
from sumzero.infer.generation import Generation, finished_generations
from sumzero.infer.row_scores import STATISTICS, RowScores, read_row_scores
from sumzero.runfolder import RunFolder, read_json

BASELINES = ("echo", "lead1", "lead3", "untrained")
_RANKED_BY = ("f1", "chrf", "rougeL")
"""What a row is called good or bad by: the first of these that it has."""


@dataclass(frozen=True)
class Scored:
    """What of a run was scored. `systems` is that of scores.json, empty where nothing was."""

    config: RunConfig
    systems: dict[str, Any] = field(default_factory=dict)
    generations: dict[str, Generation] = field(default_factory=dict)
    rows: dict[str, RowScores] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    """Systems that were not scored, and why."""

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return RunFolder.of(self.config)

    @property
    def main(self) -> str:
        """The system that the run is about: the fine-tuned one, or the last that is no baseline.

        Raises ValueError where none was scored.
        """
        if not self.systems:
            raise ValueError("nothing was scored")
        names = list(self.systems)
        others = [name for name in names if name not in BASELINES]
        return "finetuned" if "finetuned" in names else (others or names)[-1]


def read_scored(config: RunConfig) -> Scored:
    """What there is of a run. Raises RunError where rows have changed since they were scored."""
    folder = RunFolder.of(config)
    if not folder.scores.is_file():
        return Scored(config)
    found = read_json(folder.scores, "sumzero score RUN")
    if not _is_scores(found):
        raise RunError(
            f"{folder.scores} is damaged, or of another version; run `sumzero score RUN` again"
        )
    systems = found["systems"]
    generations = finished_generations(folder)
    if gone := [system for system in systems if system not in generations]:
        raise RunError(
            f"{folder.scores}: the rows of {gone[0]} are not in {folder.generations} any more; run "
            "`sumzero score RUN` again"
        )
    rows = {system: read_row_scores(generations[system]) for system in systems}
    first = next(iter(rows.values()))
    for system, its in rows.items():
        if its.ids != first.ids:
            raise RunError(
                f"{folder.scores}: {system} was scored on other records than the others; run "
                "`sumzero score RUN` again"
            )
    return Scored(config, systems, generations, rows, found.get("left_out", []))


def _is_scores(found: Any) -> bool:
    """Whether it is of the form that score.py writes."""
    try:
        return bool(found["systems"]) and all(
            isinstance(system["rows"], int)
            and all(
                isinstance(metric[key], int | float)
                for metric in [*system["metrics"].values(), *_of_slices(system["slices"])]
                for key in ("value", "low", "high")
            )
            for system in found["systems"].values()
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _of_slices(slices: Any) -> Iterator[Any]:
    for part in slices:
        yield from part["metrics"].values()


def ranked_by(rows: RowScores) -> list[str]:
    """The metrics that rows are ranked by, the likeliest first; those that none needs are left out.

    Empty where there are none.
    """
    taken, left = [], np.full(len(rows.ids), True)
    for name in (*_RANKED_BY, *rows.metrics[:1]):
        its = ~np.isnan(_of_rows(rows, name))
        if (its & left).any():
            taken.append(name)
            left &= ~its
    return taken


def quality(rows: RowScores) -> NDArray[np.float64]:
    """How good each row is (N), by the first metric of `ranked_by` that it has; NaN by none."""
    values = np.full(len(rows.ids), np.nan)
    for name in reversed(ranked_by(rows)):
        column = _of_rows(rows, name)
        values = np.where(np.isnan(column), values, column)
    return values


def _of_rows(rows: RowScores, name: str) -> NDArray[np.float64]:
    """A metric's value of each row (N), of a corpus metric too; NaN where it has none."""
    if name in rows.columns:
        return np.asarray(rows.columns[name], np.float64)
    values = np.full(len(rows.ids), np.nan)
    counts = rows.columns.get(name + STATISTICS)
    if counts is not None:
        there = np.flatnonzero(~np.isnan(counts).any(axis=1))
        values[there] = [corpus_score(name, counts[row]) for row in there]
    return values


def labels(runs: Iterable[RunConfig]) -> list[str]:
    """A name for each run, its own where they differ, else its path."""
    runs = list(runs)
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(Path(run.runs) / run.name) for run in runs]
