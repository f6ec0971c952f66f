"""OpenAI's batch files: requests that others answer elsewhere, and what they answered.

    {"custom_id": ID, "method": "POST", "url": "/v1/chat/completions", "body": {...}}      out
    {"custom_id": ID, "response": {"status_code": 200, "body": {...}}, "error": null}      in

`vllm run-batch` and hosted batch APIs read the first and write the second. An id is the record's
own. Both are read and written line by line.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sumzero.errors import ConfigError, DataError
from sumzero.infer.chat import ROUTE, Chat
from sumzero.infer.inputs import Inputs
from sumzero.infer.reply import generated, said
from sumzero.infer.rows import Row
from sumzero.log import logger
from sumzero.runfolder import atomic_file

# Of one file, by the reference of OpenAI's batch API.
_MOST_REQUESTS = 50_000
_MOST_BYTES = 200 * 10**6
_TOGETHER = 1024  # lines whose records are looked up at once
# What is no matter of the request itself, and may be answered when it is asked again.
_ASK_AGAIN = (*range(401, 406), 408, 429)


def write_requests(file: Path, requests: Iterable[tuple[str, dict[str, Any]]]) -> dict[Path, int]:
    """Writes ids and bodies of requests; returns how many are in each file.

    The first is `file`, and further ones, where there is more than one may hold, NAME-2.jsonl and
    so on. Each is whole or absent. Raises ConfigError where one is there already.
    """
    files: dict[Path, int] = {}
    for number, lines in groupby(_numbered(requests), key=itemgetter(0)):
        part = file if number == 1 else file.with_name(f"{file.stem}-{number}{file.suffix}")
        if part.exists():
            raise ConfigError(f"--batch-out: {part} is there already; remove it or name another")
        with atomic_file(part) as out:
            for _, line in lines:
                out.write(line)
                files[part] = files.get(part, 0) + 1
    return files


def _numbered(requests: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[tuple[int, str]]:
    """Each request as a line, with the number of its file from 1."""
    number, count, size = 1, 0, 0
    for id_, body in requests:
        request = {"custom_id": id_, "method": "POST", "url": ROUTE, "body": body}
        line = json.dumps(request) + "\n"  # in ASCII, so that its length is its bytes
        if count == _MOST_REQUESTS or (count and size + len(line) > _MOST_BYTES):
            number, count, size = number + 1, 0, 0
        count, size = count + 1, size + len(line)
        yield number, line


class Result(NamedTuple):
    """What a line of a batch's output says of a request: its row's part, or why there is none."""

    id: str
    row: Row | None
    reason: str
    model: str


class Results:
    """What was answered, in the output and error files of batches."""

    def __init__(self, files: Sequence[Path], inputs: Inputs) -> None:
        """Reads them through.

        Raises DataError where a line is none of a batch's output, an id is of no record, or one is
        answered twice; ConfigError where there is no such file.
        """
        self._files = files
        self._inputs = inputs
        self.unanswered: Counter[str] = Counter()
        """Why requests were not answered, and how often."""
        self.models: set[str] = set()
        """Who answered."""
        answered = np.zeros(len(inputs), np.bool_)
        for file in files:
            for some in _together(_lines(file)):
                numbers = inputs.find([result.id for _, result in some])
                for (line, result), number in zip(some, numbers, strict=True):
                    if number < 0:
                        raise DataError(f"{file}:{line}: id {result.id!r} is of no record asked")
                    if result.row is None:
                        self.unanswered[result.reason] += 1
                    elif answered[number]:
                        raise DataError(f"{file}:{line}: id {result.id!r} is answered twice")
                    else:
                        answered[number] = True
                        self.models.add(result.model)

    def rows(self, chat: Chat, has: NDArray[np.bool_]) -> Iterator[Row]:
        """The rows of what was answered, but for those of inputs (N) that have theirs."""
        for file in self._files:
            for some in _together(_lines(file)):
                answered = [result for _, result in some if result.row is not None]
                numbers = np.array(self._inputs.find([r.id for r in answered]), np.int64)
                records = self._inputs.of(numbers)
                for number, result, (record, source) in zip(
                    numbers, answered, records, strict=True
                ):
                    if not has[number]:
                        yield chat.ask(record, source)[0] | (result.row or {})

    def tell(self, chat: Chat) -> None:
        """Logs what the user may not have expected."""
        for reason, count in self.unanswered.most_common(5):
            logger.warning("%d requests were not answered: %s", count, reason)
        for model in sorted(self.models):
            if model and not model.startswith(chat.remote.model):
                logger.warning("some answers are by %r, not %r", model, chat.remote.model)


def read_result(line: bytes) -> Result:
    """Reads a line of a batch's output or error file. Raises ValueError where it is none."""
    value = json.loads(line)
    if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
        raise ValueError("there is no custom_id")
    if not {"response", "error"} & value.keys():
        raise ValueError("there is neither response nor error; is it a batch's output?")
    response = value.get("response")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    row, reason = None, said(body) or said(value.get("error")) or "no reason given"
    if status == 200:
        try:
            row = generated(body)
        except ValueError as error:
            reason = str(error)
    elif isinstance(status, int):
        reason = f"HTTP {status}: {reason}"
        if 400 <= status < 500 and status not in _ASK_AGAIN:
            row = {"error": reason}
    return Result(value["custom_id"], row, reason, model if isinstance(model, str) else "")


def _lines(file: Path) -> Iterator[tuple[int, Result]]:
    """The results of a file with the numbers of their lines."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, read_result(line)
    except OSError as error:
        raise ConfigError(f"--batch-in {file}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}:{number}: no line of a batch's output ({error})") from None


def _together(results: Iterator[tuple[int, Result]]) -> Iterator[list[tuple[int, Result]]]:
    while some := list(islice(results, _TOGETHER)):
        yield some
