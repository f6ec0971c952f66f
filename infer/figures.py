"""The figures of a report: what of a run is drawn, and how it is named."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from sumzero.infer.comparison import Column, Comparison
from sumzero.infer.metric_names import QUALITY, SHARES, grouped, title
from sumzero.infer.plots import (
    KINDS,
    Interval,
    Series,
    curves,
    distributions,
    intervals,
    scatter,
)
from sumzero.infer.scored import quality, ranked_by
from sumzero.infer.significance import bootstrap_interval
from sumzero.infer.training_curves import Curves

_POINTS = 1500  # of a scatter
_MEANS = 8  # of lengths, each over as many rows
_FEWEST = 5  # rows of a mean
_RESAMPLES = 500
_SLICES = 24  # that are drawn of a kind
_BY = {"document_words": "by words of the document", "cut": "by what was cut"}


@dataclass(frozen=True)
class Figure:
    """A plot with what is said below it."""

    svg: Markup
    caption: str


def score_figures(columns: Sequence[Column]) -> list[tuple[str, list[Figure]]]:
    """By group of metrics: a plot a metric, a row a system, with its interval."""
    metrics = list(dict.fromkeys(m for column in columns for m in column.metrics))
    found = []
    for group, names in grouped(metrics):
        figures = []
        for name in names:
            rows = [
                _interval(column.label, kind, column.metrics[name])
                for kind, column in enumerate(columns)
                if name in column.metrics
            ]
            svg = intervals(rows, title=f"{title(name)} by system", share=name in SHARES)
            figures.append(Figure(svg, title(name)))
        found.append((group, figures))
    return found


def slice_figures(column: Column) -> list[Figure]:
    """The metric that rows are ranked by, of parts of the records: a plot for each kind of part."""
    found = column.run.systems[column.system].get("slices", [])
    ranked = ranked_by(column.rows)
    figures = []
    for by in dict.fromkeys(part["by"] for part in found):
        for name in ranked:
            parts = [part for part in found if part["by"] == by and name in part["metrics"]]
            rows = [
                _interval(f"{part['is']} ({part['rows']:,})", 0, part["metrics"][name])
                for part in parts[:_SLICES]
            ]
            more = f"; {len(parts) - _SLICES} more are in scores.json" * (len(parts) > _SLICES)
            if len(rows) > 1:
                svg = intervals(rows, title=f"{title(name)} by {by}", share=name in SHARES)
                said = f"{title(name)} of {column.label} {_BY.get(by, f'by {by}')} (records){more}"
                figures.append(Figure(svg, said))
    return figures


def length_figure(columns: Sequence[Column], seed: int) -> Figure | None:
    """The score of rows against the words of their documents."""
    ranked = ranked_by(columns[0].rows)
    if not ranked:
        return None
    words = columns[0].rows.columns["document_words"].astype(np.float64)
    values = quality(columns[0].rows)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(words))[:_POINTS])
    points = list(zip(words[drawn].tolist(), values[drawn].tolist(), strict=True))
    name = title(ranked[0]) if len(ranked) == 1 else "score"
    svg = scatter(
        points,
        [(column.label, kind, _means(column, seed)) for kind, column in enumerate(columns)],
        x="words of the document",
        y=name,
        title=f"{name} against document length",
        share=all(metric in SHARES for metric in ranked),
    )
    some = f" ({_POINTS:,} of {len(words):,} are drawn)" if len(words) > _POINTS else ""
    if svg is None:
        return None
    return Figure(
        svg,
        f"Each faint dot is a record of {columns[0].label}{some}; marks are means over records of "
        "like length, with their 95% intervals.",
    )


def distribution_figures(columns: Sequence[Column]) -> list[Figure]:
    """How scores and lengths are distributed; the line is the median, which stands on the right."""
    ranked = ranked_by(columns[0].rows)
    name = title(ranked[0]) if len(ranked) == 1 else "score"
    words = columns[0].rows.columns["document_words"].astype(np.float64)
    rows = list(enumerate(columns))
    found = [
        (
            distributions(
                [(column.label, kind, quality(column.rows)) for kind, column in rows],
                x=f"{name} of a record",
                title=f"distribution of {name}",
            ),
            f"{name} of single records",
        ),
        (
            distributions(
                [
                    (column.label, kind, column.rows.columns["summary_words"].astype(np.float64))
                    for kind, column in rows
                ],
                x="words of a summary",
                title="distribution of the summaries' length",
            ),
            "Length of the summaries",
        ),
        (
            distributions(
                [("documents", 5, words)],
                x="words of a document",
                title="distribution of the documents' length",
            ),
            "Length of the documents",
        ),
    ]
    return [Figure(svg, caption) for svg, caption in found if svg]


def training_figures(made: Curves) -> list[Figure]:
    """Loss, throughput, learning rate and gradient norm by step, those that were logged."""
    loss = [Series("training" if made.validation else "", made.loss, 0, bool(made.smooth))]
    if made.smooth:
        loss = [Series("", made.loss, 0, faint=True)]
        loss.append(Series(f"training, mean of {made.window}", made.smooth, 0))
    if made.validation:
        loss.append(Series("validation", made.validation, 1, marked=True))
    found = [
        (curves(loss, x="step", y="loss", title="loss by step"), "Loss, a supervised token"),
        *(
            (
                curves([Series("", points)], x="step", y=y, title=f"{y} by step", from_zero=True),
                said,
            )
            for points, y, said in (
                (made.speed, "tokens/s", "Throughput of all ranks"),
                (made.mfu, "MFU", "Model FLOP/s utilisation"),
                (made.gradient_norm, "gradient norm", "Gradient norm before clipping"),
                (made.lr, "learning rate", "Learning rate"),
            )
        ),
    ]
    return [Figure(svg, caption) for svg, caption in found if svg]


def difference_figure(main: Column, comparison: Comparison) -> Figure | None:
    """Differences of a comparison with their intervals, of the metrics of which more is better."""
    found = comparison.found["metrics"]
    rows = [
        Interval(
            title(name),
            found[name]["difference"],
            found[name]["low"],
            found[name]["high"],
            f"{found[name]['difference']:+.2f}",
        )
        for name in found
        if name in QUALITY
    ]
    if not rows:
        return None
    label = comparison.column.label
    svg = intervals(rows, title=f"{label} less {main.label}", zero=True)
    return Figure(svg, f"{label} less {main.label}: right of the line it is higher.")


def _interval(name: str, kind: int, found: dict[str, float]) -> Interval:
    value, low, high = (_finite(found.get(key)) for key in ("value", "low", "high"))
    shown = "" if np.isnan(value) else f"{value:.2f}"
    return Interval(name, value, low, high, shown, kind % KINDS)


def _finite(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _means(column: Column, seed: int) -> list[tuple[float, float, float, float]]:
    """(words, value, low, high) of as many rows each, by rising words of their documents."""
    words: NDArray[np.int64] = column.rows.columns["document_words"]
    values = quality(column.rows)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(words[known], kind="stable")]
    parts = np.array_split(order, max(1, min(_MEANS, len(order) // _FEWEST)))
    return [
        (
            float(np.median(words[part])),
            float(values[part].mean()),
            *bootstrap_interval(values[part], resamples=_RESAMPLES, seed=seed),
        )
        for part in parts
        if len(part)
    ]
