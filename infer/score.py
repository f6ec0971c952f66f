"""Generations + references -> scores.json: every metric of every system, with intervals."""

from typing import Any

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.generation import finished_generations
from sumzero.infer.questions import read_test, references
from sumzero.infer.rouge import rouge, signature
from sumzero.infer.significance import bootstrap_interval
from sumzero.runfolder import RunFolder, write_json


def score(config: RunConfig) -> dict[str, Any]:
    """Scores the newest finished generation of each system and writes `scores.json`.

    Values are percentages. A row that ended in an error counts as an empty summary. Raises
    RunError where nothing was generated, or a generation is not of these records.
    """
    if not config.data.test:
        raise ConfigError("data.test: no references to score against; set data.test.path")
    folder = RunFolder.of(config)
    records, sources = read_test(config, need_targets=True)
    wanted = references(records, sources, config)
    generations = finished_generations(folder)
    if not generations:
        raise RunError(f"{folder.generations}: nothing generated yet; run `sumzero generate` first")
    systems = {}
    for system, generation in generations.items():
        texts = {row["id"]: row.get("text", "") for row in generation.rows()}
        lacking = [record.id for record in records if record.id not in texts]
        if lacking:
            raise RunError(
                f"{generation.folder}: {len(lacking)} of the {len(records)} records are not in it, "
                f"{lacking[0]!r} first; run `sumzero generate` for these records"
            )
        # Records without targets, which are generated for but not scored, count too.
        made_from = (
            input_digest((record, "") for record in some)
            for some in (records, read_test(config)[0])
        )
        if generation.manifest["documents"] not in made_from:
            raise RunError(
                f"{generation.folder}: made from other documents of the same ids; run `sumzero "
                f"generate RUN.toml` again, for the system {system}"
            )
        values = rouge(wanted, [texts[r.id] for r in records])
        metrics = {}
        for name, of_rows in values.items():
            low, high = bootstrap_interval(
                of_rows, resamples=config.score.bootstrap, seed=config.seed
            )
            metrics[name] = {
                "value": round(100 * float(of_rows.mean()), 4),
                "low": round(100 * low, 4),
                "high": round(100 * high, 4),
                "signature": signature(),
            }
        systems[system] = {"rows": len(records), "metrics": metrics}
    scores = {"systems": systems}
    write_json(folder.scores, scores)
    return scores


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
