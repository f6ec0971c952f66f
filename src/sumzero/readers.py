"""A source's files and data sets -> blocks of rows.

A source is a file, a glob, a folder of `Dataset.save_to_disk`, or a data set of the Hub. `blocks`
runs in the main process, in fixed memory; `formats.rows` parses a block, in whatever process.
"""

import glob
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sumzero import formats
from sumzero.config import Source
from sumzero.errors import ConfigError, DataError
from sumzero.formats import Block as Block
from sumzero.formats import rows as rows

_HUB = "hub:"
_OPTIONS = ("subset", "split", "revision")


def files(source: Source) -> list[Path]:
    """The files of the source's path or glob or folder, sorted; none for a data set of the Hub.

    Raises DataError where no file is there, ConfigError where a setting is not for this kind of
    source.
    """
    if source.path.startswith(_HUB):
        return []
    path = Path(source.path)
    is_folder = path.is_dir()
    for option in _OPTIONS:
        if getattr(source, option) is not None and not (is_folder and option == "split"):
            raise ConfigError(f"{path}: {option} is for data sets; remove {option} = ...")
    if is_folder:
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.is_file():  # its name may have the signs of a glob
        return [path]
    found = {Path(name) for name in glob.glob(source.path, recursive=True)}
    matches = sorted(file for file in found if file.is_file())
    if not matches:
        no_file = "no file matches" if glob.has_magic(source.path) else "no such file"
        raise DataError(f"{path}: {no_file}")
    return matches


def label(source: Source, file: str) -> str:
    """The short name of a file of the source: what tells it from the others of the same glob."""
    path = Path(source.path.removeprefix(_HUB))
    if file.startswith(_HUB):
        return str(path)
    if Path(file) == path:
        return path.name
    while glob.has_magic(str(path)) and not Path(source.path).is_dir():
        path = path.parent
    return str(Path(file).relative_to(path))


def digest(source: Source) -> str:
    """SHA-256 over the names and contents of the files, or over what identifies a Hub data set.

    Raises DataError and ConfigError as `blocks` does.
    """
    state = hashlib.sha256()
    found = files(source)
    if Path(source.path).is_dir():
        _data_set(source)  # before all that lies in a wrong folder is read
    for file in found:
        state.update(json.dumps(label(source, str(file))).encode())
        with formats.naming(str(file)), file.open("rb") as content:
            state.update(hashlib.file_digest(content, "sha256").digest())
    if source.path.startswith(_HUB):
        named = [source.path, *(getattr(source, option) for option in _OPTIONS)]
        state.update(json.dumps([*named, _data_set(source)._fingerprint]).encode())
    return state.hexdigest()


def blocks(source: Source) -> Iterator[Block]:
    """All rows of the source, in order, in blocks that are the same each time.

    Raises DataError where no file is there, one is of no known format or damaged or repeats a
    column's name, or a data set cannot be loaded; ConfigError as `files` does.
    """
    found = files(source)
    if source.path.startswith(_HUB) or Path(source.path).is_dir():
        yield from _of_data_set(source.path, _data_set(source))
        return
    for file in found:
        formats.reader(file)  # all of them, before the first is read
    for file in found:
        yield from formats.of_file(file)


def _of_data_set(name: str, data_set: Any) -> Iterator[Block]:
    first = 1
    with formats.naming(name):
        formats.check_names(name, data_set.column_names)
        for table in data_set.with_format("arrow").iter(formats.MAX_ROWS):
            table.validate(full=True)  # mapped into memory and not decoded: nothing else checks it
            yield from formats.of_arrow(name, first, table)
            first += table.num_rows


def _data_set(source: Source) -> Any:
    """The `datasets.Dataset` of a folder or of the Hub, mapped into memory."""
    import datasets  # takes a second

    datasets.disable_progress_bars()
    unnamed = [_HUB + name for name in ("", *datasets.load._PACKAGED_DATASETS_MODULES)]
    if source.path in ("", *unnamed):
        # `load_dataset("json")` takes whatever files lie in the working directory.
        raise DataError(f"{source.path}: names no data set; write hub:OWNER/NAME")
    try:
        if source.path.startswith(_HUB):
            name = source.path.removeprefix(_HUB)
            # Without remote code, and pickles are refused: `datasets` has no other way since 4.0.
            found = datasets.load_dataset(
                name, source.subset, split=source.split, revision=source.revision
            )
        else:
            found = datasets.load_from_disk(source.path)
    except Exception as error:  # of any type: of the Hub, the network, a format, the cache
        cause = error.__cause__ or error
        told = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise DataError(f"{source.path}: no data set can be loaded ({told})") from None
    if isinstance(found, dict):
        splits = ", ".join(map(str, found))
        if source.split is None:
            raise DataError(f"{source.path}: has splits; set split to one of them: {splits}")
        if source.split not in found:
            raise DataError(f"{source.path}: no split {source.split!r}; there are {splits}")
        return found[source.split]
    if not source.path.startswith(_HUB) and source.split not in (None, str(found.split)):
        raise DataError(f"{source.path}: has no splits; remove split = {source.split!r}")
    return found
