"""Runs beside the first one: what a page shows in a column, and what `compare` says of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer.compare import Scored as System
from sumzero.infer.compare import compare
from sumzero.infer.row_scores import RowScores
from sumzero.infer.scored import Scored, labels, quality, read_scored
from sumzero.runfolder import RunFolder


@dataclass(frozen=True)
class Column:
    """A system as pages show it: under which name, and of which run."""

    label: str
    run: Scored
    system: str

    @property
    def rows(self) -> RowScores:
        """What its rows scored."""
        return self.run.rows[self.system]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """What scores.json has of it, by metric."""
        found: dict[str, dict[str, Any]] = self.run.systems[self.system]["metrics"]
        return found


@dataclass(frozen=True)
class Comparison:
    """A column of another run beside the first one's.

    `found` is what `sumzero compare --json` prints; its differences are those of the other run less
    the first.
    """

    column: Column
    found: dict[str, Any]


def columns_of(run: Scored, others: Sequence[RunConfig]) -> tuple[list[Column], list[Comparison]]:
    """What a run is about, then its like of the other runs, then its baselines; and comparisons.

    Raises ConfigError where a run is there twice, RunError where one was not scored, or is not of
    the same records.
    """
    roots = [RunFolder.of(config).root.resolve() for config in (run.config, *others)]
    for number, root in enumerate(roots):
        if root in roots[:number]:
            raise ConfigError(f"{root}: named twice; name each run once")
    runs = [run, *map(read_scored, others)]
    for other in runs:
        if not other.systems:
            raise RunError(f"{other.folder.scores} is missing; run `sumzero score RUN` first")
    names = labels([one.config for one in runs]) if others else [run.main]
    if len({one.main for one in runs}) > 1:
        names = [f"{name}: {one.main}" for name, one in zip(names, runs, strict=True)]
    first = [Column(name, one, one.main) for name, one in zip(names, runs, strict=True)]
    comparisons = [Comparison(column, _compared(first[0], column)) for column in first[1:]]
    baselines = [Column(name, run, name) for name in run.systems if name != run.main]
    return first + baselines, comparisons


def change(main: Column, other: Column) -> NDArray[np.float64]:
    """What the quality of each row of `main` (N) is in `other`, less what it is in `main`."""
    place = {id_: number for number, id_ in enumerate(other.rows.ids)}
    theirs = quality(other.rows)[[place[id_] for id_ in main.rows.ids]]
    return np.asarray(theirs - quality(main.rows))


def _compared(a: Column, b: Column) -> dict[str, Any]:
    """Raises RunError as `compare`."""
    config = a.run.config
    of_a, of_b = (System(x.label, x.run.generations[x.system], x.rows) for x in (a, b))
    return compare(of_a, of_b, resamples=config.score.bootstrap, seed=config.seed)
