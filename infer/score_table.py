"""scores.json as text tables that fit a terminal."""

from collections.abc import Iterator, Sequence
from typing import Any

from sumzero.infer.bleu import METRICS as CORPUS
from sumzero.infer.measures import COLUMNS, MAIN
from sumzero.infer.reply import one_line

_HIDDEN_AT_ZERO = ("document_truncated", "empty", "errors")
_Scores = dict[str, Any]


def table(scores: _Scores) -> str:
    """A row a system: a task's main metrics, each with half its interval's width.

    Several tasks are a block each.
    """
    blocks = []
    for task in _tasks(scores):
        systems = {
            system: part
            for system, found in scores["systems"].items()
            if (part := _of(found, task))
        }
        title = [] if task is None else [f"{task}, {max(x['rows'] for x in systems.values())} rows"]
        names = _main(next(iter(systems.values()))["metrics"], task)
        blocks.append("\n".join([*title, *_rows(systems, names)]))
    return "\n\n".join(blocks)


def details(scores: _Scores) -> str:
    """The other metrics, a column a system; and what was not scored."""
    systems = scores["systems"]
    main = {x for task in _tasks(scores) for x in _main_of(systems, task)}
    have = {name: None for found in systems.values() for name in found["metrics"]}
    width = max(12, *(len(system) + 2 for system in systems))
    lines = ["beside".ljust(20) + "".join(f"{system:>{width}}" for system in systems)]
    for name in dict.fromkeys((*COLUMNS, *CORPUS, *have)):  # and those of models
        values = [found["metrics"].get(name, {}).get("value") for found in systems.values()]
        if name in main or name not in have or (name in _HIDDEN_AT_ZERO and not any(values)):
            continue
        cells = "".join(" " * (width - 1) + "-" if x is None else f"{x:{width}.2f}" for x in values)
        lines.append(name.ljust(20) + cells)
    lines += [
        f"{system}: {lacking} rows have no reference and are not scored"
        for system, found in systems.items()
        if (lacking := found["without_reference"])
    ]
    return "\n".join(lines)


def slices(scores: _Scores) -> str:
    """The main metrics of each slice, a block a system."""
    blocks = []
    for system, found in scores["systems"].items():
        for task in _tasks(scores):
            names, title = _main_of(scores["systems"], task), "" if task is None else f"{task}, "
            parts = {
                f"{part['by']} {one_line(part['is'].removeprefix(title))}, {part['rows']}": part
                for part in found["slices"]
                if part["by"] != "task" and part["is"].startswith(title)
            }
            if parts:
                heading = system if task is None else f"{system}, {task}"
                blocks.append("\n".join([heading, *_rows(parts, names, first="slice, rows")]))
    return "\n\n".join(blocks)


def _tasks(scores: _Scores) -> list[str | None]:
    """The tasks that rows are of; None where they are all of one."""
    found = dict.fromkeys(
        part["is"]
        for of_system in scores["systems"].values()
        for part in of_system["slices"]
        if part["by"] == "task"
    )
    return list(found) or [None]


def _of(found: _Scores, task: str | None) -> _Scores | None:
    """What a system scored in a task."""
    if task is None:
        return found
    parts = (x for x in found["slices"] if (x["by"], x["is"]) == ("task", task))
    return next(parts, None)


def _main_of(systems: _Scores, task: str | None) -> list[str]:
    metrics = {name: 0 for found in systems.values() for name in found["metrics"]}
    return _main(metrics, task)


def _main(metrics: dict[str, Any], task: str | None) -> list[str]:
    """The main metrics of a task, of those that there are; None: of the task that they tell of."""
    if task is None:
        task = next((x for x, (first, *_) in MAIN.items() if first in metrics), "summarize")
    return [name for name in MAIN[task] if name in metrics]


def _rows(
    found: dict[str, _Scores], names: Sequence[str], *, first: str = "system"
) -> Iterator[str]:
    width = max(12, *(len(label) + 1 for label in found))
    yield first.ljust(width) + "".join(f"{name:>16}" for name in names)
    for label, of_label in found.items():
        yield label.ljust(width) + "".join(_cell(of_label["metrics"].get(name)) for name in names)


def _cell(metric: dict[str, float] | None) -> str:
    if metric is None:
        return f"{'-':>16}"
    half = (metric["high"] - metric["low"]) / 2
    return f"{metric['value']:9.2f} ± {half:4.2f}"
