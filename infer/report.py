"""Scores, curves and examples -> one self-contained report.html.

Everything from the data is escaped by the template engine; the page loads nothing.
"""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2

from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer.generation import finished_generations
from sumzero.infer.questions import each_record
from sumzero.infer.rouge import rouge
from sumzero.runfolder import RunFolder, atomic_file, read_json, read_jsonl

_MAX_EXAMPLES = 200
_MAX_CHARACTERS = 4000  # of a document that is shown
_WIDTH, _HEIGHT = 640, 160  # of a curve, in pixels


def report(config: RunConfig) -> Path:
    """Writes `report.html` for a scored run and returns its path. Raises RunError if unscored."""
    if not config.data.test:
        raise ConfigError("data.test: no records to report on; set data.test.path")
    folder = RunFolder.of(config)
    scores = read_json(folder.scores, "sumzero score RUN.toml")
    events = read_jsonl(folder.root / "events.jsonl")
    steps = [event for event in events if event["event"] == "step"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        name=config.name,
        model=config.model.path,
        systems=scores["systems"],
        metrics=_metrics_of_all(scores["systems"]),
        generations={
            system: found.manifest for system, found in finished_generations(folder).items()
        },
        data=_optional(folder.data_report),
        plan=_optional(folder.plan),
        machine=_optional(folder.environment),
        stages=[event for event in events if event["event"] == "stage"],
        loss=_curve([(step["step"], step["loss"]) for step in steps]),
        speed=_curve([(step["step"], step["tokens_per_second"]) for step in steps]),
        examples=_examples(config, folder),
        config=folder.config.read_text(encoding="utf-8") if folder.config.is_file() else "",
    )
    with atomic_file(folder.report) as out:
        out.write(page)
    return folder.report


def _metrics_of_all(systems: dict[str, Any]) -> list[str]:
    """The metrics that every system has, in their order."""
    first, *others = (found["metrics"] for found in systems.values())
    return [name for name in first if all(name in other for other in others)]


def _examples(config: RunConfig, folder: RunFolder) -> list[dict[str, Any]]:
    records = each_record(config.data.test, need_targets=True)
    shown = [record for record, _ in islice(records, _MAX_EXAMPLES)]
    ids = {record.id for record in shown}
    texts: dict[str, dict[str, str]] = {
        system: {
            row["id"]: str(row.get("text", row.get("error", "")))
            for row in found.each_row()
            if row["id"] in ids
        }
        for system, found in finished_generations(folder).items()
    }
    if any(record.id not in by_id for by_id in texts.values() for record in shown):
        raise RunError(f"{folder.scores}: the records have changed; run `sumzero score` again")
    values = {
        system: rouge([r.targets for r in shown], [by_id[r.id] for r in shown])["rougeL"]
        for system, by_id in texts.items()
    }
    return [
        {
            "id": record.id,
            "document": record.document[:_MAX_CHARACTERS],
            "cut": len(record.document) > _MAX_CHARACTERS,
            "targets": record.targets,
            "outputs": {
                system: {"text": by_id[record.id], "rougeL": 100 * values[system][index]}
                for system, by_id in texts.items()
            },
        }
        for index, record in enumerate(shown)
    ]


def _curve(points: list[tuple[float, float]]) -> dict[str, Any] | None:
    """An SVG polyline through the points, and the numbers at its ends; None below two points."""
    if len(points) < 2:
        return None
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    span_x, span_y = (xs[-1] - xs[0]) or 1, (high - low) or 1
    path = " ".join(
        f"{_WIDTH * (x - xs[0]) / span_x:.1f},{_HEIGHT * (1 - (y - low) / span_y):.1f}"
        for x, y in points
    )
    return {
        "points": path,
        "width": _WIDTH,
        "height": _HEIGHT,
        "first": ys[0],
        "last": ys[-1],
        "low": low,
        "high": high,
        "steps": xs[-1],
    }


def _optional(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
