"""A run's scores, curves and examples -> one self-contained report.html, of at most 5 MB.

Whatever of the run is there is told: a training that goes on has curves and no scores yet, a model
of others has scores and no training. Other runs on the same records are compared with the first.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sumzero import __version__
from sumzero.config import RunConfig
from sumzero.errors import ConfigError, RunError
from sumzero.infer import figures, score_markdown
from sumzero.infer.comparison import Column, Comparison, change, columns_of
from sumzero.infer.examples import LIMITS, Shown, chosen, fitted
from sumzero.infer.exhibits import exhibits
from sumzero.infer.metric_names import TOLD_OTHERWISE, title
from sumzero.infer.model_card import write_model_card
from sumzero.infer.plots import KINDS, shape
from sumzero.infer.report_page import render_page
from sumzero.infer.scored import Scored, ranked_by, read_scored
from sumzero.infer.support import read_explanations
from sumzero.infer.training_curves import training_curves
from sumzero.log import logger
from sumzero.runfolder import atomic_file, read_json, read_jsonl
from sumzero.status import training

LARGEST = 5_000_000
"""Bytes of a page."""
_MARGIN = 256  # of them, for what is said of the examples
FLAGS = {
    "failed": "failed",
    "empty": "empty",
    "unfaithful": "unfaithful",
    "length": "stopped by length",
    "truncated": "document cut",
}
METHODS = {"ablation": "ablation", "overlap": "words in common"}
"""How each method of `support.METHODS` is called on the page."""


def report(config: RunConfig, others: Sequence[RunConfig] = (), *, largest: int = LARGEST) -> Path:
    """Writes `report.html` into the run's folder, and the card of its export; returns the page.

    As many examples are in it as have room in `largest` bytes.
    Raises RunError where there is nothing to tell, or where another run is not of the same
    records, ConfigError where the run has no test records any more, DataError where they cannot be
    read.
    """
    run = read_scored(config)
    folder = run.folder
    events = read_jsonl(folder.root / "events.jsonl")
    told = _told(run, events)
    if not run.systems:
        if others or (not events and told["data"] is None):
            raise RunError(
                f"{folder.scores} is missing; run `sumzero score RUN.toml` first, after "
                "`sumzero generate RUN.toml`"
            )
        logger.warning("%s is missing: the report has no scores yet", folder.scores)
        page = render_page(told, None)
    else:
        columns, comparisons = scored_columns(run, others)
        told |= _scores(columns, comparisons)
        told["explained"] = _explained(run)
        browser, examples = _browser(columns, comparisons)
        rows = len(columns[0].rows.ids)
        bare = render_page(told | {"shown": Shown([], rows, LIMITS[0], 1)}, browser)
        shown = fitted(examples, rows=rows, room=largest - len(bare) - _MARGIN)
        page = render_page(told | {"shown": shown}, browser | {"examples": shown.examples})
    with atomic_file(folder.report) as out:
        out.write(page.decode())
    write_model_card(run, told)
    return folder.report


def pull_request(config: RunConfig, others: Sequence[RunConfig] = ()) -> str:
    """The scores and comparisons in Markdown; raises as `report`, and where nothing was scored."""
    run = read_scored(config)
    return score_markdown.summary(config.name, *scored_columns(run, others))


def scored_columns(
    run: Scored, others: Sequence[RunConfig]
) -> tuple[list[Column], list[Comparison]]:
    """As `columns_of`; raises ConfigError where the run has no test records any more."""
    if run.systems and not run.config.data.test:
        raise ConfigError("data.test: no records to report on; set data.test.path")
    return columns_of(run, others)


def _told(run: Scored, events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page says of the run itself."""
    config, folder = run.config, run.folder
    state = training(folder) if folder.root.is_dir() else None
    return {
        "name": config.name,
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "notes": _notes(run, state),
        "state": state,
        "model": config.model.path,
        "export": _optional(folder.export / "export.json", "sumzero export RUN"),
        "sources": config.data.train,
        "data": _optional(folder.data_report, "sumzero prepare RUN"),
        "plan": _optional(folder.plan, "sumzero train RUN"),
        "machine": _optional(folder.environment, "sumzero train RUN"),
        "stages": [event for event in events if event["event"] == "stage"],
        "training": figures.training_figures(training_curves(events)),
        "generations": {name: found.manifest for name, found in run.generations.items()},
        "settings": folder.config.read_text(encoding="utf-8") if folder.config.is_file() else "",
        "systems": run.systems,
        "shown": None,
        "explained": "",
        "title": title,
    }


def _notes(run: Scored, state: dict[str, Any] | None) -> list[str]:
    """What readers must know before they believe the page."""
    notes = []
    if state and state["state"] in ("running", "starting", "preempted", "stalled", "stopped"):
        at = f" at step {state['step']:,} of {state['steps']:,}" if state["steps"] else ""
        notes.append(f"The training has not finished: it is {state['state']}{at}.")
    if not run.systems:
        notes.append(
            "Nothing has been scored yet: run sumzero generate, sumzero score, and this again."
        )
    return notes + [f"Not scored: {what}" for what in run.left_out]


def _scores(columns: Sequence[Column], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What the page says of scores."""
    main = columns[0]
    return {
        "columns": columns,
        "main": main,
        "headline": next(iter(ranked_by(main.rows)), ""),
        "marks": [shape(kind) for kind in range(KINDS)],
        "scores": figures.score_figures(columns),
        "slices": figures.slice_figures(main),
        "length_plot": figures.length_figure(columns, main.run.config.seed),
        "distributions": figures.distribution_figures(columns),
        "comparisons": [
            (one.column.label, one.found, figures.difference_figure(main, one))
            for one in comparisons
        ],
    }


def _browser(
    columns: Sequence[Column], comparisons: Sequence[Comparison]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What report.js is given, as yet without examples, and those by their rank."""
    main = columns[0]
    changes = [change(main, one.column) for one in comparisons]
    numbers = chosen(main.rows, changes, seed=main.run.config.seed)
    every = dict.fromkeys(name for column in columns for name in column.rows.metrics)
    metrics = [name for name in every if name not in TOLD_OTHERWISE]
    examples = exhibits(columns, numbers, metrics)
    for example in examples:
        example["changes"] = [_rounded(of_rows[example["row"]]) for of_rows in changes]
    browser = {
        "systems": [column.label for column in columns],
        "metrics": [title(name) for name in metrics],
        "quality": _quality_title(main),
        "flags": FLAGS,
        "methods": METHODS,
        "examples": [],
    }
    return browser, examples


def _explained(run: Scored) -> str:
    """What is to be known of the sources that light up.

    Of an explanation of other summaries than those that are shown, nothing.
    """
    told = ["Words in common are n-grams that both sentences have, by their rarity: from 0 to 1."]
    explanations = read_explanations(run.folder.root, ())
    about = explanations.about
    generation = run.generations.get(about.get("system", ""))
    if generation is None or not explanations.are_of(generation.folder):
        return told[0]
    method = about.get("method")
    if isinstance(method, dict) and "weights" in method:
        told.insert(0, f"Ablation is the {method['weights']}.")
    checked = about.get("faithfulness") or {}
    if checked.get("lds"):
        ranks = ", ".join(
            f"{name.replace('_', ' ')} {one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})"
            for name, one in checked["lds"].items()
        )
        told.append(
            f"Rank correlation of what they tell with what happens when sentences are left out "
            f"(LDS), over {checked.get('lds_summaries')} summaries: {ranks}."
        )
    return " ".join(told)


def _quality_title(column: Column) -> str:
    return " or ".join(title(name) for name in ranked_by(column.rows))


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)


def _optional(file: Path, made_by: str) -> Any:
    return read_json(file, made_by) if file.is_file() else None
