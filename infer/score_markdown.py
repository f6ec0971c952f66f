"""A run's scores as Markdown: for pull requests, and for the card of its model.

Names and texts of the data stand in code spans, in which Markdown sees no markup and no mention.
"""

import re
from collections.abc import Iterable, Sequence

from sumzero.infer.comparison import Column, Comparison
from sumzero.infer.metric_names import QUALITY, title


def summary(name: str, columns: Sequence[Column], comparisons: Sequence[Comparison]) -> str:
    """What `sumzero report --markdown` prints. The first column is the run's own system."""
    parts = [f"### {code(name)}", scores(columns), signatures(columns[0])]
    for comparison in comparisons:
        parts.append(f"#### {code(comparison.column.label)} less {code(columns[0].label)}")
        parts.append(differences(columns[0], comparison))
    return "\n\n".join(parts) + "\n"


def scores(columns: Sequence[Column]) -> str:
    """A table with a row a system and a column a metric of quality, with intervals."""
    metrics = shown_metrics(columns)
    lines = [
        [code(column.label), *(_value(column, metric) for metric in metrics), f"{_rows(column):,}"]
        for column in columns
    ]
    head = ["system", *map(title, metrics), "records"]
    said = "Percent, with 95% bootstrap intervals over records."
    return f"{table(head, lines)}\n\n{said}"


def differences(main: Column, comparison: Comparison) -> str:
    """A table with a row a metric: both values, their difference and what speaks for chance."""
    a, b = code(main.label), code(comparison.column.label)
    head = ["metric", a, b, "difference", "p", "higher / equal / lower"]
    lines = [
        [
            title(metric),
            f"{found['a']:.2f}",
            f"{found['b']:.2f}",
            f"{found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})",
            f"{found['p_randomisation']:.4f}",
            f"{found['win']:,} / {found['tie']:,} / {found['loss']:,}",
        ]
        for metric, found in comparison.found["metrics"].items()
        if metric in QUALITY
    ]
    said = (
        f"Of the same {comparison.found['rows']:,} records; 95% intervals by paired bootstrap, p "
        f"by approximate randomisation; records in which {b} is higher, equal and lower."
    )
    return f"{table(head, lines)}\n\n{said}"


def signatures(column: Column) -> str:
    """How the metrics of the tables were taken, each signature once."""
    by: dict[str, list[str]] = {}
    for metric in shown_metrics([column]):
        found = column.metrics[metric].get("signature", "")
        by.setdefault(found, []).append(title(metric))
    return "\n".join(f"- {', '.join(names)}: {code(text)}" for text, names in by.items() if text)


def shown_metrics(columns: Sequence[Column]) -> list[str]:
    """The metrics of quality that any of the systems has."""
    found = (metric for column in columns for metric in column.metrics)
    return [metric for metric in dict.fromkeys(found) if metric in QUALITY]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right. Cells are Markdown already."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def code(text: str) -> str:
    """A code span that holds the text, whatever it is, on one line."""
    text = " ".join(text.split()) or " "
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def _value(column: Column, metric: str) -> str:
    found = column.metrics.get(metric)
    if found is None:
        return ""
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _rows(column: Column) -> int:
    rows: int = column.run.systems[column.system]["rows"]
    return rows
