"""Generations + references -> scores.json: every metric of every system, with intervals.

Records and rows are read side by side, in the order that both have, and only numbers are kept.
"""

from collections.abc import Iterator
from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.generation import Generation, finished_generations
from sumzero.infer.questions import each_record, references
from sumzero.infer.rouge import FloatArray, RougeScores, signature
from sumzero.infer.significance import bootstrap_interval
from sumzero.records import Record
from sumzero.runfolder import RunFolder, write_json


def score(config: RunConfig) -> dict[str, Any]:
    """Scores the newest finished generation of each system and writes `scores.json`.

    Values are percentages. A row that ended in an error counts as an empty summary. Raises
    RunError where nothing was generated, or a generation is not of these records.
    """
    if not config.data.test:
        raise ConfigError("data.test: no references to score against; set data.test.path")
    folder = RunFolder.of(config)
    generations = finished_generations(folder)
    if not generations:
        raise RunError(f"{folder.generations}: nothing generated yet; run `sumzero generate` first")
    systems = {
        system: {"rows": len(of_rows["rouge1"]), "metrics": _metrics(of_rows, config)}
        for system, of_rows in _scored(config, generations).items()
    }
    scores = {"systems": systems}
    write_json(folder.scores, scores)
    return scores


def _scored(
    config: RunConfig, generations: dict[str, Generation]
) -> dict[str, dict[str, FloatArray]]:
    """Of each system each metric's value of every record, in [0, 1]."""
    texts = {system: _Texts(generation) for system, generation in generations.items()}
    scores = {system: RougeScores() for system in generations}

    def passing() -> Iterator[tuple[Record, str]]:
        """Scores each as it passes."""
        for record, source in each_record(config.data.test, need_targets=True):
            wanted = references(record, source, config)
            for system, its in texts.items():
                text = its.of(record.id)
                if text is None:
                    raise _mismatch(config, system, generations[system])
                scores[system].add(wanted, text)
            yield record, ""

    documents = [input_digest(passing())]
    for system, generation in generations.items():
        if generation.manifest["documents"] in documents:
            continue
        if len(documents) == 1:  # records without targets, generated for and not scored, count too
            every = each_record(config.data.test, need_targets=False)
            documents.append(input_digest((record, "") for record, _ in every))
        if generation.manifest["documents"] not in documents:
            raise _mismatch(config, system, generation)
    return {system: its.by_metric() for system, its in scores.items()}


class _Texts:
    """The texts of a generation, asked for in the order of its rows."""

    def __init__(self, generation: Generation) -> None:
        self._rows = generation.each_row()

    def of(self, id_: str) -> str | None:
        """The text of the next row with this id; None where there is none."""
        for row in self._rows:
            if row["id"] == id_:
                return str(row.get("text", ""))
        return None


def _mismatch(config: RunConfig, system: str, generation: Generation) -> RunError:
    """What to say of a generation that is not of the records."""
    have = {row["id"] for row in generation.each_row()}
    wanted = [record.id for record, _ in each_record(config.data.test, need_targets=True)]
    lacking = [id_ for id_ in wanted if id_ not in have]
    if lacking:
        return RunError(
            f"{generation.folder}: {len(lacking)} of the {len(wanted)} records are not in it, "
            f"{lacking[0]!r} first; run `sumzero generate` for these records"
        )
    return RunError(
        f"{generation.folder}: made from other documents of the same ids; run `sumzero generate "
        f"RUN.toml` again, for the system {system}"
    )


def _metrics(of_rows: dict[str, FloatArray], config: RunConfig) -> dict[str, Any]:
    metrics = {}
    for name, values in of_rows.items():
        low, high = bootstrap_interval(values, resamples=config.score.bootstrap, seed=config.seed)
        metrics[name] = {
            "value": round(100 * float(values.mean()), 4),
            "low": round(100 * low, 4),
            "high": round(100 * high, 4),
            "signature": signature(),
        }
    return metrics


def table(scores: dict[str, Any]) -> str:
    """The scores as a text table: a row a system, each value with half its interval's width."""
    names = list(next(iter(scores["systems"].values()))["metrics"])
    width = max(12, *(len(system) + 1 for system in scores["systems"]))
    lines = ["system".ljust(width) + "".join(f"{name:>16}" for name in names)]
    for system, found in scores["systems"].items():
        cells = ""
        for name in names:
            metric = found["metrics"][name]
            half = (metric["high"] - metric["low"]) / 2
            cells += f"{metric['value']:9.2f} ± {half:4.2f}"
        lines.append(system.ljust(width) + cells)
    return "\n".join(lines)
