"""Generation + export -> attributions.jsonl: which parts of each document carry its summary.

    generations/FINGERPRINT/explained-KEY.jsonl   rows as they finish, append-only
    attributions.jsonl                            a line about the explanation, then its rows

KEY is a hash over what the rows depend on, so that an explanation that was killed goes on, with
fewer `batched_tokens` too, and a larger sample takes the rows of a smaller one. Ablations of many
documents are in the engines at once; a document is rendered when there is room.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from sumzero.config import RunConfig
from sumzero.errors import DataError
from sumzero.infer.ablated import Ablated
from sumzero.infer.answering import Answering
from sumzero.infer.attribution import Kept
from sumzero.infer.engine import Failure, Request
from sumzero.infer.engines import Engines
from sumzero.infer.explained import Chosen, Explained, open_explained
from sumzero.infer.explanation import Explanation, unscored_row
from sumzero.infer.explanation_file import Head, about, write_explanation
from sumzero.infer.fingerprint import digest_of, fingerprint
from sumzero.infer.rows import Row
from sumzero.infer.shards import appending
from sumzero.log import logger, progress
from sumzero.runfolder import RunFolder, alone, read_jsonl

_FORMAT = 1  # of the rows
_NOT_OF_ROWS = ("checked", "batched_tokens")  # settings that may change before it goes on
_LEFT_FREE = 0.1  # of a GPU's memory: for logits, which vLLM's reckoning leaves out


def explain(
    config: RunConfig, system: str = "finetuned", sample: int = 200, ids: Sequence[str] = ()
) -> Head:
    """Explains summaries of a system's newest generation, and writes `attributions.jsonl`.

    They are a sample by the run's seed, or those of these ids. Returns the file's first line.
    Raises ConfigError or RunError for what the user can mend.
    """
    explained = open_explained(config, system)
    chosen = explained.choose(sample, ids)
    where = explained.generation.folder
    file = where / f"explained-{_key(explained)}.jsonl"
    with alone(where, "sumzero explain", lock=".explain.lock"):
        todo = _todo(explained, chosen, _rows(file))
        if kept := len(chosen.numbers) - len(todo):
            logger.info("%s: %d rows are there, %d to go", file, kept, len(todo))
        started = _make(explained, todo, file)
        there = _rows(file)
        rows = [there[chosen.ids[number]] for number in sorted(chosen.numbers)]
        head = about(explained, chosen, rows)
        head["cost"] |= {"rows_made_now": len(todo), "seconds_start": round(started, 3)}
        write_explanation(RunFolder.of(config).attributions, head, rows)
    return head


def _key(explained: Explained) -> str:
    settings = asdict(explained.config.explain)
    for name in _NOT_OF_ROWS:
        del settings[name]
    by = {"format": _FORMAT, **settings, "seed": explained.config.seed}
    return fingerprint({**by, "engine": explained.job.made_by["engine"]})


@dataclass(frozen=True)
class Todo:
    """A summary to be explained; `beside` is what its row says of itself."""

    number: int
    text: str
    is_checked: bool
    in_parts: bool
    beside: Row


def _rows(file: Path) -> dict[str, Row]:
    """The rows that are there, by id; of each the last."""
    return {row["id"]: row for row in read_jsonl(file)}


def _todo(explained: Explained, chosen: Chosen, there: dict[str, Row]) -> list[Todo]:
    """The summaries without a row. Errors are tried again."""
    todo = []
    for place, number in enumerate(chosen.numbers):
        id_, text = chosen.ids[number], chosen.texts[number]
        digest = digest_of([text])[:16]
        in_parts = number in chosen.in_parts
        is_checked = place < explained.config.explain.checked and not in_parts
        row = there.get(id_, {"error": "none"})
        is_there = (
            "error" not in row
            and row["summary_digest"] == digest
            and ("in_parts" in row) == in_parts
        )
        if not is_there or (is_checked and "check" not in row):
            beside = {"id": id_, "system": explained.system, "summary_digest": digest}
            todo.append(Todo(number, text, is_checked, in_parts, beside))
    return todo


def _make(explained: Explained, todo: Sequence[Todo], file: Path) -> float:
    """Appends a row for each. Returns the seconds that the engines took to start."""
    config, model = explained.config, explained.model
    whole, parts = ([x for x in todo if x.in_parts == flag] for flag in (False, True))
    with appending(file) as write:
        records = explained.records(one.number for one in parts)
        for one, (record, _) in zip(parts, records, strict=True):
            write(one.beside | unscored_row(record.document, one.text, config.explain.sources))
        if not whole:
            return 0.0
        settings = explained.engine_settings(_LEFT_FREE)
        job = (model.folder, settings, model.contract.max_length, config.seed)
        with Engines(*job, batched_tokens=config.explain.batched_tokens) as engines:
            since = time.perf_counter()
            rows = explanations(engines, explained, whole)
            what = f"explaining: {explained.system}"
            for row in progress(rows, what, total=len(whole), unit=" summaries"):
                now = time.perf_counter()
                if "cost" in row:  # many are at work at once: since the one before was done
                    row["cost"]["seconds"] = round(now - since, 4)
                since = now
                write(row)
            return engines.seconds_start


@dataclass(frozen=True)
class _Work:
    todo: Todo
    explanation: Explanation
    scored: int  # tokens


def explanations(engine: Answering, explained: Explained, todo: Sequence[Todo]) -> Iterator[Row]:
    """A row for each summary, as they finish; one that cannot be explained has its error."""
    config, model = explained.config, explained.model
    records = zip(todo, explained.records(one.number for one in todo), strict=True)
    work: dict[int, _Work] = {}
    asked: dict[str, tuple[int, Kept]] = {}
    ready: deque[Request] = deque()
    unfit: list[Row] = []
    names = map(str, count())

    def ask(one: _Work, wanted: Sequence[tuple[Kept, list[int]]]) -> None:
        for (kept, ids), name in zip(wanted, names, strict=False):
            asked[name] = one.todo.number, kept
            ready.append(Request(name, ids, scored=one.scored))

    def requests() -> Iterator[Request | None]:
        while True:
            if ready:
                request = ready.popleft()
                if asked[request.id][0] in work:
                    yield request
                else:  # another one of the same document has failed: each might end an engine
                    del asked[request.id]
            elif (pair := next(records, None)) is not None:
                one, (record, source) = pair
                try:
                    about = Ablated(model, config, record, source, one.text)
                except DataError as error:
                    unfit.append(one.beside | {"error": str(error)})
                    continue
                explanation = Explanation(
                    about, config.explain, config.seed, is_checked=one.is_checked
                )
                at_work = _Work(one, explanation, len(about.summary.ids))
                work[one.number] = at_work
                ask(at_work, explanation.begin())
            elif work:
                yield None  # what is at work may want more
            else:
                return

    for done in engine.generate(requests(), model.contract.stop_ids, config.seed):
        number, kept = asked.pop(done.id)
        if (one := work.get(number)) is None:
            continue  # an ablation of the same document has failed
        if isinstance(done, Failure):
            yield work.pop(number).todo.beside | {"error": done.reason}
            continue
        ask(one, one.explanation.take(kept, done.logprobs))
        if one.explanation.done:
            yield work.pop(number).todo.beside | one.explanation.row()
    yield from unfit
