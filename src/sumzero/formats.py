"""File formats -> blocks of rows -> rows: JSONL, JSON, CSV, TSV and Parquet, also .gz and .zst.

A file is read and unpacked as a stream, and parsed no further than it takes to see where rows end;
`rows` parses a block, in whatever process. Every row comes out as a dict, or as the reason why it
is none. Two formats are not streamed: a .json has to be parsed at once, and a compressed .parquet
is unpacked to a temporary file first, because it is read from its end.
"""

import csv
import errno
import gzip
import io
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Number
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sumzero.errors import DataError

MAX_ROWS = 256
_MAX_BYTES = 2**20
# From Arrow's values to Python's: text that is not UTF-8, years past 9999, unknown time zones.
_NOT_PYTHON = (ValueError, OverflowError, LookupError, pa.ArrowException)
Kind = Literal["json", "csv", "arrow"]
_NAMES: dict[type, str] = {
    **{dict: "an object", list: "a list", tuple: "a list", str: "text", bytes: "bytes"},
    **{bool: "true/false", type(None): "null"},
}


@dataclass(frozen=True)
class Block:
    """Rows of a file that follow one another: at most 256, and 1 MiB unless one row is larger."""

    file: str
    first: int
    """Where its first row begins: a line from 1; in JSON, Parquet and data sets a row from 1."""
    kind: Kind
    content: Any
    """An Arrow stream; or (number, row) pairs, a row being a line of JSON, a list of CSV's fields,
    or a str: the reason why it is no row."""
    header: tuple[str, ...] = ()


Reader = Callable[[str, IO[bytes]], Iterator[Block]]


def reader(file: Path) -> tuple[Reader, str]:
    """How to read a file and unpack it. Raises DataError where its name is that of no format."""
    suffix = file.suffix.lower()
    packing = suffix if suffix in (".gz", ".zst") else ""
    if packing:
        suffix = Path(file.stem).suffix.lower()
    if suffix not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"{file}: cannot be read; {known} can, and .gz and .zst of them")
    return _READERS[suffix], packing


def of_file(file: Path) -> Iterator[Block]:
    """The rows of a file. Raises DataError where it is damaged or repeats a column's name."""
    read, packing = reader(file)
    with naming(str(file)), ExitStack() as stack:
        content: Any = stack.enter_context(file.open("rb"))
        if packing == ".gz":
            content = stack.enter_context(gzip.GzipFile(fileobj=content))
        elif packing == ".zst":
            stream: Any = stack.enter_context(pa.CompressedInputStream(content, "zstd"))
            content = stack.enter_context(io.BufferedReader(stream))
        if packing and read is _of_parquet:
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(content, unpacked)
            content = unpacked
        yield from read(str(file), content)


def of_arrow(file: str, first: int, table: pa.Table) -> Iterator[Block]:
    """The rows of a table, its first one's number given.

    A block holds an Arrow stream: a pickled slice would carry the whole of what it is a slice of.
    """
    table = table.replace_schema_metadata()  # of pandas and datasets, for themselves
    parts = -(-table.nbytes // _MAX_BYTES)
    step = max(1, table.num_rows // max(1, parts))
    for start in range(0, table.num_rows, step):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as out:
            out.write_table(table.slice(start, step))
        yield Block(file, first + start, "arrow", sink.getvalue().to_pybytes())


def check_names(file: str, names: Sequence[str]) -> None:
    """Raises DataError where two columns have one name, or there is none."""
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise DataError(f"{file}: two columns are called {doubled[0]!r}; rename one")
    if not names:
        raise DataError(f"{file}: has no columns")


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Turns what the libraries raise over a file's content into one line that names the file."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the temporary file
                raise
            raise DataError(f"{file}: cannot be read ({os.strerror(error.errno)})") from None
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{file}: damaged, or not what its name says ({told})") from None


def rows(block: Block) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The rows of a block, each with its number; for what is no row, the reason why."""
    if block.kind == "arrow":
        with pa.ipc.open_stream(block.content) as stream:
            table = stream.read_all()
        yield from enumerate(_arrow_rows(table), start=block.first)
        return
    for number, content in block.content:
        if isinstance(content, str):
            yield number, content
        else:
            yield number, _line(content) if block.kind == "json" else _cells(content, block.header)


def describe(value: Any) -> str:
    """What a value is, to a user: "a list", "a number"."""
    if type(value) in _NAMES:
        return _NAMES[type(value)]
    return "a number" if isinstance(value, Number) else f"a {type(value).__name__}"


def _cut(
    file: str,
    kind: Kind,
    sized: Iterable[tuple[int, Any, int]],
    header: tuple[str, ...] = (),
) -> Iterator[Block]:
    """Blocks of (number, content, size) rows."""
    held: list[tuple[int, Any]] = []
    size = 0
    for number, content, its_size in sized:
        if held and (len(held) == MAX_ROWS or size + its_size > _MAX_BYTES):
            yield Block(file, held[0][0], kind, held, header)
            held, size = [], 0
        held.append((number, content))
        size += its_size
    if held:
        yield Block(file, held[0][0], kind, held, header)


def _of_lines(file: str, content: IO[bytes]) -> Iterator[Block]:
    numbered = enumerate(content, start=1)
    return _cut(file, "json", ((n, line, len(line)) for n, line in numbered if line.strip()))


def _line(line: bytes) -> dict[str, Any] | str:
    try:
        row = _parse(line)
    except ValueError as fault:
        return str(fault)
    return row if isinstance(row, dict) else f"not a JSON object but {describe(row)}"


def _parse(content: bytes) -> Any:
    """Raises ValueError with the reason."""
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (at byte {error.start})") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from None


def _of_json(file: str, content: IO[bytes]) -> Iterator[Block]:
    """An array of objects, also as the one such value of an object; columns; or lines after all."""
    text = content.read()
    first = next((line for line in io.BytesIO(text) if line.strip()), None)
    if first is None:
        return
    try:
        values = _table(_parse(text))
        fault = "holds no array of objects"
    except ValueError as error:
        values, fault = None, str(error)
    if values is not None:
        lines = enumerate(map(_unparsed, values), start=1)
        yield from _cut(file, "json", ((n, line, len(line)) for n, line in lines))
    elif isinstance(_line(first), dict):
        yield from _of_lines(file, io.BytesIO(text))
    else:
        raise DataError(f"{file}: {fault}")


def _unparsed(value: Any) -> bytes | str:
    """Text again: pickle gives up on nested values far earlier than JSON does."""
    try:
        return json.dumps(value).encode()
    except RecursionError as error:
        return f"not valid JSON ({error})"


def _table(found: Any) -> list[Any] | None:
    """The rows of a parsed .json file; None where it is of no form that has rows."""
    if not isinstance(found, dict):
        return found if isinstance(found, list) else None
    lists = [value for value in found.values() if isinstance(value, list)]
    arrays = [rows for rows in lists if all(isinstance(row, dict) for row in rows)]
    if len(lists) == len(found) > len(arrays) and len(set(map(len, lists))) == 1:
        return [dict(zip(found, row, strict=True)) for row in zip(*lists, strict=True)]
    return arrays[0] if len(arrays) == 1 else None


def _of_csv(file: str, content: IO[bytes], delimiter: str = ",") -> Iterator[Block]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="") as text:
        table = _csv_rows(file, text, delimiter)
        for line, names, _ in table:
            fault = names if isinstance(names, str) else _cells(names, tuple(names))
            if isinstance(fault, str):
                raise DataError(f"{file}:{line}: {fault}; the first row must name the columns")
            check_names(file, tuple(names))
            yield from _cut(file, "csv", table, tuple(names))


def _csv_rows(
    file: str, text: IO[str], delimiter: str
) -> Iterator[tuple[int, list[str] | str, int]]:
    """(line, fields or the reason why there are none, size) of every row that is not blank."""
    table = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = table.line_num + 1
        try:
            fields = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):  # nobody knows how many rows it swallowed
                raise DataError(f"{file}:{line}: a quote of this row is never closed") from None
            yield line, f"not valid CSV ({error})", 0
            continue
        if fields:
            yield line, fields, sum(map(len, fields))


def _cells(fields: list[str], header: tuple[str, ...]) -> dict[str, Any] | str:
    if len(fields) != len(header):
        return f"wrong number of fields ({len(fields)}, the header has {len(header)})"
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:  # bytes that the surrogateescape of `_of_csv` let through
        return "not UTF-8"
    return dict(zip(header, fields, strict=True))


def _of_parquet(file: str, content: IO[bytes]) -> Iterator[Block]:
    with pq.ParquetFile(content) as table:
        check_names(file, table.schema_arrow.names)
        first = 1
        for batch in table.iter_batches(MAX_ROWS):
            yield from of_arrow(file, first, pa.Table.from_batches([batch]))
            first += batch.num_rows
        if first - 1 != table.metadata.num_rows:
            raise DataError(f"{file}: damaged: {first - 1} of {table.metadata.num_rows} rows")


def _arrow_rows(table: pa.Table) -> Iterator[dict[str, Any] | str]:
    try:
        yield from table.to_pylist()
    except _NOT_PYTHON as error:
        if table.num_rows == 1:
            told = " ".join(str(error).split())[:200]
            yield f"a value that Python cannot hold ({told})"
        else:
            for index in range(table.num_rows):
                yield from _arrow_rows(table.slice(index, 1))


_READERS: dict[str, Reader] = {
    **{".jsonl": _of_lines, ".ndjson": _of_lines, ".json": _of_json, ".parquet": _of_parquet},
    **{".csv": _of_csv, ".tsv": partial(_of_csv, delimiter="\t")},
}
