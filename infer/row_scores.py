"""What each row of a generation scored: a table beside its rows, which score.py writes.

    generations/FINGERPRINT/row_scores.parquet

A row a scored record, in input order. A metric's column is in the unit of scores.json, so that its
mean over rows is the value there; NaN is where it does not apply. Columns that end in `_statistics`
hold what a corpus metric sums over rows before the score is taken (bleu.py). The table names the
rows and references that it was made from.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from sumzero.errors import RunError
from sumzero.infer.generation import MERGED, Generation

ROW_SCORES = "row_scores.parquet"
STATISTICS = "_statistics"
_KEY = b"sumzero"
ABOUT: dict[str, pa.DataType] = {
    "id": pa.string(),
    "task": pa.string(),
    "language": pa.string(),
    "document_words": pa.int64(),
    "summary_words": pa.int64(),
    "truncated": pa.bool_(),
    "failed": pa.bool_(),
    "finish_reason": pa.string(),
}
"""The columns that say what a row is; all others are metrics and their statistics."""


@dataclass(frozen=True)
class RowScores:
    """A table as it was written.

    `columns` has every column but `id` by its name: (N) arrays of strings, int64, bool or, of
    metrics, float64; statistics are float64 (N, K), all NaN where they do not apply.
    """

    ids: list[str]
    columns: dict[str, NDArray[Any]]
    signatures: dict[str, str]
    """Of each metric, corpus metrics too."""
    references: str = field(default="")
    """A digest over the ids and references scored against."""

    @property
    def metrics(self) -> list[str]:
        """The metrics that have a value of each row, in their order."""
        return [name for name in self.columns if name not in ABOUT and STATISTICS not in name]


def write_row_scores(
    generation: Generation,
    columns: Mapping[str, ArrayLike | Sequence[str]],
    *,
    signatures: Mapping[str, str],
    references: str,
) -> None:
    """Writes the table of a generation, whole or not at all.

    `columns` are those of `ABOUT`, then metrics (N) and statistics (N, K). Raises ValueError where
    one of `ABOUT` is missing, or lengths differ.
    """
    if missing := ABOUT.keys() - columns.keys():
        raise ValueError(f"no column {min(missing)!r}")
    names = [*ABOUT, *(name for name in columns if name not in ABOUT)]
    about = {
        "signatures": dict(signatures),
        "references": references,
        "rows": _rows_digest(generation),
    }
    arrays = [_arrow(name, columns[name]) for name in names]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError("columns of different lengths")
    table = pa.Table.from_arrays(arrays, names=names).replace_schema_metadata(
        {_KEY: json.dumps(about, ensure_ascii=False)}
    )
    file = generation.folder / ROW_SCORES
    partial = file.with_name(file.name + ".partial")
    try:
        pq.write_table(table, partial)
        with partial.open("rb") as content:
            os.fsync(content.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read_row_scores(generation: Generation) -> RowScores:
    """The table of a generation.

    Raises RunError where there is none, or it was made from other rows than are there now.
    """
    file = generation.folder / ROW_SCORES
    again = "run `sumzero score RUN` first"
    try:
        table = pq.read_table(file)
        about = json.loads((table.schema.metadata or {})[_KEY])
    except FileNotFoundError:
        raise RunError(f"{file} is missing; {again}") from None
    except (OSError, KeyError, ValueError) as error:  # which, depends on where the damage is
        raise RunError(f"{file} is damaged ({error}); {again}") from None
    if about["rows"] != _rows_digest(generation):
        raise RunError(f"{file}: made from other rows than {MERGED} has now; {again}")
    return RowScores(
        ids=[str(id_) for id_ in table.column("id").to_pylist()],
        columns={name: _numpy(name, table.column(name)) for name in table.column_names[1:]},
        signatures=about["signatures"],
        references=about["references"],
    )


def _rows_digest(generation: Generation) -> str:
    with (generation.folder / MERGED).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _arrow(name: str, column: Any) -> "pa.Array[Any]":
    if name in ABOUT:
        return pa.array(column, ABOUT[name])
    values = np.ascontiguousarray(column, np.float64)
    if not name.endswith(STATISTICS):
        return pa.array(values)
    lacking: Any = np.isnan(values).all(axis=1)
    offsets = np.concatenate([[0], np.cumsum(np.where(lacking, 0, values.shape[1]))])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()) if offsets[-1] < 2**31 else pa.array(offsets),
        pa.array(values[~lacking].reshape(-1)),
        mask=pa.array(lacking),
    )


def _numpy(name: str, column: "pa.ChunkedArray[Any]") -> NDArray[Any]:
    if not name.endswith(STATISTICS):
        if name in ABOUT and ABOUT[name] == pa.string():
            return np.array(column.to_pylist(), dtype=object).astype(str)
        return np.asarray(column.to_numpy())
    lists: Any = column.combine_chunks()
    there = np.asarray(lists.is_valid())
    flat = np.asarray(lists.flatten(), np.float64)
    width = len(flat) // max(1, int(there.sum()))
    values = np.full((len(there), width), np.nan)
    values[there] = flat.reshape(-1, width) if width else np.empty((int(there.sum()), 0))
    return values
