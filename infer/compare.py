"""Two systems on the same records: what differs, and whether that is chance.

Both are read from the tables that `sumzero score` wrote (row_scores.py); no text is scored again.
The differences are those of b less a. What cannot be compared is refused, or left out by name.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer.bleu import corpus_score
from sumzero.infer.generation import Generation, finished_generations
from sumzero.infer.paired import FloatArray, Pair, corpus_pair, differences, mean_pair
from sumzero.infer.pairs import unfinished
from sumzero.infer.row_scores import STATISTICS, RowScores, read_row_scores
from sumzero.infer.slices import Slice, slices
from sumzero.runfolder import RunFolder

SHUFFLES = 10_000  # of approximate randomisation; sacreBLEU's default
_SHUFFLES_OF_SLICES = 1000
_TIE = 1e-9  # in the metric's unit: less is rounding
_SHOWN = 3  # ids that a fault names
_PREFERRED = ("rougeL", "f1", "chrf")  # by which rows have changed, where it is not said


@dataclass(frozen=True)
class Scored:
    """A system that is scored: its name for people, its generation, and what its rows scored."""

    name: str
    generation: Generation
    scores: RowScores


def compare(
    a: Scored,
    b: Scored,
    *,
    resamples: int,
    seed: int,
    metrics: Sequence[str] = (),
    changed: int = 10,
    texts: bool = False,
) -> dict[str, Any]:
    """What `sumzero compare --json` prints.

    `metrics` are those wanted, by default all; the first is the one by which `changed` rows are
    chosen, and `texts` adds both texts to them. Raises RunError where the systems cannot be
    compared, ConfigError where a metric is wanted that is not there.
    """
    _check_same_records(a, b)
    rows_in_all = len(a.scores.ids)
    names, left_out = _comparable(a, b, metrics)
    pairs = {name: _pair(name, a.scores.columns, b.scores.columns) for name in names}
    for name in [name for name, pair in pairs.items() if not pair.rows]:
        left_out[name] = "no row has it on both sides"
        del pairs[name]
    if not pairs:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise RunError(f"{a.name} and {b.name}: no metric can be compared ({why})")
    rows = _Rows(pairs, resamples, seed)
    by = next(name for name in (*metrics, *_PREFERRED, *pairs) if name in pairs)
    ours, theirs = rows.scores[by]
    found = [
        {"id": a.scores.ids[row], "metric": by, "a": float(ours[row]), "b": float(theirs[row])}
        for row in rows.changed(by, changed)
    ]
    if texts:
        _add_texts(found, a, b)
    return {
        "a": a.name,
        "b": b.name,
        "rows": rows_in_all,
        "metrics": rows.compared(np.full(rows_in_all, True), SHUFFLES),
        "left_out": left_out,
        "slices": [
            {"by": part.by, "is": part.label, "rows": int(part.rows.sum())}
            | {"metrics": rows.compared(part.rows, _SHUFFLES_OF_SLICES)}
            for part in _slices(a.scores.columns, b.scores.columns)
        ],
        "changed": found,
    }


def scored(config: RunConfig, system: str) -> Scored:
    """A system of a run. Raises RunError where it is not generated or not scored."""
    generation = generations(config)[system]
    name = f"{RunFolder.of(config).root}:{system}"
    return Scored(name, generation, read_row_scores(generation))


def chosen(
    config_a: RunConfig, config_b: RunConfig, system_a: str | None, system_b: str | None
) -> tuple[str, str]:
    """The names of the systems to compare, where they are not given.

    Of one run, its only two; of two runs, the same system of both, "finetuned" if both have it.
    Raises ConfigError where that does not say which, RunError where nothing was generated.
    """
    of_a, of_b = list(generations(config_a)), list(generations(config_b))
    if RunFolder.of(config_a).root.resolve() == RunFolder.of(config_b).root.resolve():
        if system_a is None and system_b is None and len(of_a) == 2:
            return of_a[0], of_a[1]
        if system_a is None or system_b is None or system_a == system_b:
            raise ConfigError(
                f"{RunFolder.of(config_a).root}: say which of its systems, --system A --system-b B,"
                f" or give another run; it has {', '.join(of_a)}"
            )
    elif system_a is None and system_b is None:
        both = [name for name in of_a if name in of_b]
        if "finetuned" in both or len(both) == 1:
            system_a = system_b = "finetuned" if "finetuned" in both else both[0]
    system_a = system_a if system_a is not None else system_b
    system_b = system_b if system_b is not None else system_a
    for name, config, there in ((system_a, config_a, of_a), (system_b, config_b, of_b)):
        if name not in there:
            said = (
                "say which system with --system, --system-b"
                if name is None
                else (f"no system {name!r}")
            )
            raise ConfigError(f"{RunFolder.of(config).root}: {said}; it has {', '.join(there)}")
    assert system_a is not None
    assert system_b is not None
    return system_a, system_b


def generations(config: RunConfig) -> dict[str, Generation]:
    """The finished generations of a run. Raises RunError where there is none, and says why."""
    folder = RunFolder.of(config)
    found = finished_generations(folder)
    if found:
        return found
    for what in unfinished(folder):
        raise RunError(what)
    raise RunError(f"{folder.root}: nothing generated yet; run `sumzero generate` first")


def _check_same_records(a: Scored, b: Scored) -> None:
    """Raises RunError where rows of both are not of the same records, in the same order."""
    of_a, of_b = set(a.scores.ids), set(b.scores.ids)
    only_a = [id_ for id_ in a.scores.ids if id_ not in of_b]
    only_b = [id_ for id_ in b.scores.ids if id_ not in of_a]
    if len(only_a) == len(a.scores.ids):
        raise RunError(
            f"{a.name} and {b.name}: have no id in common ({_some(a.scores.ids)} against "
            f"{_some(b.scores.ids)}); compare systems of the same records"
        )
    if only_a or only_b:
        parts = [
            f"{len(ids)} only in {name} ({_some(ids)})"
            for name, ids in ((a.name, only_a), (b.name, only_b))
            if ids
        ]
        raise RunError(
            f"{a.name} and {b.name}: are not of the same records, {' and '.join(parts)}; generate "
            "and score both for the same data.test"
        )
    if (a.scores.ids, a.scores.references) != (b.scores.ids, b.scores.references):
        raise RunError(
            f"{a.name} and {b.name}: the same ids, but other references or another order; score "
            "both against the same data.test"
        )


def _some(ids: Sequence[str]) -> str:
    more = ", ..." if len(ids) > _SHOWN else ""
    return ", ".join(repr(id_) for id_ in ids[:_SHOWN]) + more


def _comparable(a: Scored, b: Scored, wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The metrics that both have by one signature, and why others are left out."""
    ours, theirs = a.scores.signatures, b.scores.signatures
    every = list(ours | theirs)
    if unknown := [name for name in wanted if name not in every]:
        raise ConfigError(f"--metric {unknown[0]}: is not scored; there are {', '.join(every)}")
    names, left_out = [], {}
    for name in wanted or every:
        if name not in ours or name not in theirs:
            left_out[name] = f"only {(a if name in ours else b).name} has it"
        elif ours[name] != theirs[name]:
            left_out[name] = f"signatures differ, {ours[name]} against {theirs[name]}"
        else:
            names.append(name)
    return names, left_out


def _pair(
    name: str, a_columns: dict[str, NDArray[Any]], b_columns: dict[str, NDArray[Any]]
) -> Pair:
    """A metric as the paired tests take it."""
    counted = name + STATISTICS
    if counted not in a_columns:
        return mean_pair(a_columns[name], b_columns[name])

    def scores(sums: FloatArray) -> FloatArray:
        return np.array([corpus_score(name, row) for row in sums])

    return corpus_pair(a_columns[counted], b_columns[counted], scores)


class _Rows:
    """What rows have of each metric, and what some of them tell together."""

    def __init__(self, pairs: dict[str, Pair], resamples: int, seed: int) -> None:
        self._pairs = pairs
        self._resamples = resamples
        self._seed = seed
        self.scores = {name: pair.by_row() for name, pair in pairs.items()}

    def compared(self, rows: NDArray[np.bool_], shuffles: int) -> dict[str, dict[str, Any]]:
        """Of each metric that some of these rows have: both tests, and in how many b is above a."""
        pairs = {name: part for name, pair in self._pairs.items() if (part := pair.of(rows)).rows}
        if not pairs:
            return {}
        found = differences(pairs, resamples=self._resamples, shuffles=shuffles, seed=self._seed)
        return {
            name: asdict(one) | self._counts(name, rows) | {"rows": pairs[name].rows}
            for name, one in found.items()
        }

    def _counts(self, name: str, rows: NDArray[np.bool_]) -> dict[str, int]:
        a, b = self.scores[name]
        change = (b - a)[rows]
        win, loss = int((change > _TIE).sum()), int((change < -_TIE).sum())
        return {"win": win, "tie": int((~np.isnan(change)).sum()) - win - loss, "loss": loss}

    def changed(self, name: str, most: int) -> list[int]:
        """The rows that a metric has changed most, up or down, the largest change first."""
        a, b = self.scores[name]
        size = np.nan_to_num(np.abs(b - a), nan=0.0)
        largest = np.argsort(-size, kind="stable")[:most].tolist()
        return [row for row in largest if size[row] > _TIE]


def _slices(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> list[Slice]:
    """The slices of the rows; by "cut" they are whole where neither system's is cut or failed."""
    reasons = [columns["finish_reason"] == "length" for columns in (a, b)]
    return slices(
        a
        | {name: a[name] | b[name] for name in ("truncated", "failed")}
        | {"finish_reason": np.where(reasons[0] | reasons[1], "length", "")}
    )


def _add_texts(found: list[dict[str, Any]], a: Scored, b: Scored) -> None:
    """Adds both systems' texts to rows that are named by their ids."""
    ids = {one["id"] for one in found}
    for key, system in (("text_a", a), ("text_b", b)):
        rows = system.generation.each_row()
        said = {row["id"]: str(row.get("text", "")) for row in rows if row["id"] in ids}
        for one in found:
            one[key] = said[one["id"]]
