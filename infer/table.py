"""merged.jsonl -> merged.parquet beside it: the same rows in the same order, in batches.

A column is whole numbers, numbers, true/false or text where all its values are, and else holds JSON
as text, as `metadata` always does. What a row does not have, or has as null, is null.
"""

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sumzero.infer.generation import LOCK, MERGED, PARQUET, PATIENCE, Generation
from sumzero.runfolder import alone

_BATCH_ROWS = 8192
_PLAIN: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
}


def write_parquet(made: Generation) -> Path:
    """Writes the table of a finished generation, whole or not at all, where there is none yet."""
    file = made.folder / PARQUET
    with alone(made.folder, "sumzero merge", PATIENCE, lock=LOCK):
        if not file.is_file():
            _write(made.folder / MERGED, file)
    return file


def _write(source: Path, file: Path) -> None:
    types: dict[str, set[type]] = {}
    for row in _rows(source):
        for name, value in row.items():
            types.setdefault(name, set()).update({type(value)} - {type(None)})
    columns = {name: None if name == "metadata" else _plain(of) for name, of in types.items()}
    schema = pa.schema([(name, type_ or pa.string()) for name, type_ in columns.items()])
    partial = file.with_name(file.name + ".partial")
    try:
        with pq.ParquetWriter(partial, schema) as out:
            rows = _rows(source)
            while some := list(islice(rows, _BATCH_ROWS)):
                cells = [
                    pa.array(
                        [_cell(row, name, columns[name]) for row in some], schema.field(name).type
                    )
                    for name in schema.names
                ]
                out.write_batch(pa.RecordBatch.from_arrays(cells, schema=schema))
        with partial.open("rb") as content:
            os.fsync(content.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    with source.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _plain(types: set[type]) -> pa.DataType | None:
    """The type of a column with values of these types; None where it is JSON."""
    if types == {int, float}:
        return pa.float64()
    return _PLAIN.get(next(iter(types))) if len(types) == 1 else None


def _cell(row: dict[str, Any], name: str, plain: pa.DataType | None) -> Any:
    value = row.get(name)
    return value if value is None or plain is not None else json.dumps(value, ensure_ascii=False)
