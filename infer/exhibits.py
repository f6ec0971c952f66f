"""The chosen records with what each system made of them, as the page's browser wants them.

Records and rows are streamed; only those that are chosen are kept, documents cut to what may be
shown of them at all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sumzero.errors import RunError
from sumzero.infer.comparison import Column
from sumzero.infer.examples import LIMITS, flags, shortened
from sumzero.infer.generation import Generation
from sumzero.infer.questions import each_record, references
from sumzero.infer.row_scores import RowScores
from sumzero.infer.scored import Scored, quality
from sumzero.infer.support import Explanations, Support, by_words, read_explanations

_REFERENCES = 10  # that are shown of a record


def exhibits(
    columns: Sequence[Column], numbers: Sequence[int], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """An example for each row number of the first column's run, in the same order.

    Raises RunError where the records are not those that were scored, DataError where they cannot be
    read.
    """
    first = columns[0]
    ids = [first.rows.ids[number] for number in numbers]
    examples = _records(first.run, set(ids))
    if lacking := [id_ for id_ in ids if id_ not in examples]:
        raise RunError(
            f"{first.run.folder.scores}: the records have changed, {lacking[0]!r} is not among "
            "them any more; run `sumzero generate` and `sumzero score` again"
        )
    for id_, number in zip(ids, numbers, strict=True):
        examples[id_] |= {"row": number, **_about(first.rows, number)}
    roots = {column.run.folder.root for column in columns}
    explained = {root: read_explanations(root, examples.keys()) for root in roots}
    for column in columns:
        place = {id_: number for number, id_ in enumerate(column.rows.ids)}
        texts = _texts(column.run.generations[column.system], examples)
        outputs = _Outputs(column, explained[column.run.folder.root], metrics)
        for id_, example in examples.items():
            example["outputs"].append(outputs.of(id_, place[id_], texts[id_]))
    for example in examples.values():
        _add_words(example)
        _share_spans(example["outputs"])
    return [examples[id_] for id_ in ids]


def _records(run: Scored, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for record, source in each_record(run.config.data.test, need_targets=True):
        if record.id in ids:
            wanted = references(record, source, run.config)
            found[record.id] = {
                "id": record.id,
                "asked": record.instruction,
                "document": record.document[: LIMITS[0]],
                "left_out": max(0, len(record.document) - LIMITS[0]),
                "references": [shortened(text) for text in wanted[:_REFERENCES]],
                "outputs": [],
            }
    return found


def _texts(generation: Generation, ids: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in generation.each_row() if row["id"] in ids}


def _about(rows: RowScores, number: int) -> dict[str, Any]:
    columns = rows.columns
    return {
        "task": str(columns["task"][number]),
        "language": str(columns["language"][number]),
        "words": int(columns["document_words"][number]),
    }


class _Outputs:
    """What is shown of a system's rows."""

    def __init__(self, column: Column, explanations: Explanations, metrics: Sequence[str]) -> None:
        self._column = column
        self._explanations = explanations
        generation = column.run.generations[column.system]
        self._explained = explanations.are_of(generation.folder)
        self._quality = quality(column.rows)
        self._flags = flags(column.rows)
        missing = np.full(len(column.rows.ids), np.nan)
        self._scores = [column.rows.columns.get(name, missing) for name in metrics]

    def of(self, id_: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
        """Of the row with this id and number."""
        text = str(row.get("text", ""))
        support = self._explanations.of.get((self._column.system, id_))
        shown: dict[str, Any] = {
            "text": shortened(text),
            "words": int(self._column.rows.columns["summary_words"][number]),
            "flags": [name for name, those in self._flags.items() if those[number]],
            "quality": _number(self._quality[number]),
            "scores": [_number(values[number]) for values in self._scores],
        }
        if "error" in row:
            shown["error"] = shortened(str(row["error"]))
        if support and self._explained and _within(support.summary, len(text)):
            shown["support"] = _told(support)
            sure = support.certainty
            if sure and 0 <= sure.tokens[0] <= sure.end <= len(text):
                shown["sure"] = {"tokens": sure.tokens, "mean": sure.mean}
        return shown


def _add_words(example: dict[str, Any]) -> None:
    """Where nothing was explained, sources are by words in common."""
    lacking = [output for output in example["outputs"] if "support" not in output]
    texts = [output["text"] for output in lacking]
    for output, support in zip(lacking, by_words(example["document"], texts), strict=True):
        if support:
            output["support"] = _told(support)


def _told(support: Support) -> dict[str, Any]:
    return {"document": support.document, "summary": support.summary, "methods": support.methods}


def _share_spans(outputs: Iterable[dict[str, Any]]) -> None:
    """Spans of the document are told once, by the first output that has them; others have none."""
    known = None
    for output in outputs:
        support = output.get("support")
        if support and known is None:
            known = support["document"]
        elif support and support["document"] == known:
            del support["document"]


def _within(spans: Sequence[tuple[int, int]], length: int) -> bool:
    """Whether spans lie in a text of this length: else they are of another one."""
    return all(0 <= start <= end <= length for start, end in spans)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
