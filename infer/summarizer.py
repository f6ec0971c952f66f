"""Summaries from Python: an export, asked as `sumzero generate` asks it.

    from sumzero import Summarizer

    with Summarizer("runs/scitldr/export", max_new_tokens=96, long="truncate") as summarize:
        print(summarize("The text."))

The export alone decides what a model is asked: no run file is read. vLLM runs in a process of its
own, which takes no part in an event loop that is there already, as in a notebook.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

from sumzero.config import RunConfig, Source
from sumzero.contract import Contract, open_contract
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.formats import describe
from sumzero.infer.answering import Model, answers
from sumzero.infer.engines import Engines
from sumzero.infer.fit import check_fit
from sumzero.infer.questions import asking, check_room
from sumzero.infer.rows import Row
from sumzero.log import progress
from sumzero.records import Record
from sumzero.runfile import check


@dataclass(frozen=True)
class Summary:
    """A summary and what it was made from; docs/generation.md says what the numbers count.

    Where a text of several has none, `error` says why and `text` is empty.
    """

    text: str = ""
    finish_reason: str = "error"
    document_tokens: int = 0
    document_kept: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    seconds: float = 0.0
    tree: dict[str, Any] | None = None
    """The parts of a text that did not fit, and their summaries."""
    error: str | None = None

    def __str__(self) -> str:
        return self.text


_FIELDS = [field.name for field in fields(Summary)]


class Summarizer:
    """An export that summarizes texts. One call at a time; the first one starts vLLM.

    `settings` are those of `[generate]`, by name; `engines` is 1 where it is not given.
    """

    def __init__(self, export: str | Path, *, seed: int = 0, **settings: Any) -> None:
        """Raises RunError where the export does not keep its contract, ConfigError on a setting."""
        folder = Path(export)
        if (folder / "export").is_dir():
            raise RunError(f"{folder}: is a run folder; give {folder / 'export'}")
        contract, renderer = open_contract(folder)
        if not (folder / "config.json").is_file():
            raise RunError(f"{folder}: has no model; of adapters make one with `sumzero export`")
        generate = {"engines": 1, **settings}
        values = {"name": "summarizer", "seed": seed, "generate": generate}
        self._config = check(values, "Summarizer")
        self._source = _source(folder, contract)
        self._model = Model(folder, contract, renderer, asking(self._config, contract))
        self._engines: Engines | None = None

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a string is an iterable of strings
        self,
        texts: str,
        *,
        max_words: int | None = None,
        sentences: int | None = None,
        instruction: str | None = None,
        language: str | None = None,
    ) -> Summary: ...

    @overload
    def __call__(
        self,
        texts: Iterable[str],
        *,
        max_words: int | None = None,
        sentences: int | None = None,
        instruction: str | None = None,
        language: str | None = None,
    ) -> list[Summary]: ...

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        max_words: int | None = None,
        sentences: int | None = None,
        instruction: str | None = None,
        language: str | None = None,
    ) -> Summary | list[Summary]:
        """The summary of a text, or the summaries of several in their order.

        `max_words` or `sentences` ask for a length, of a model trained with `data.length_control`;
        `instruction` is asked in place of the trained one: of a model that answers, the question.
        `language` is that of the trained instructions. Raises DataError for what is no text,
        ConfigError for what cannot be asked or does not fit, RunError where one text has no
        summary, or vLLM fails.
        """
        if instruction is not None:
            instruction = _text("instruction", instruction)
        self._check_asked(instruction, language)
        config = self._asking_for(max_words, sentences, instruction)
        model = replace(self._model, asked=asking(config, self._model.contract))
        records = [
            (Record(name, text, (), instruction, language or self._source.language), self._source)
            for name, text in _named(texts)
        ]
        if not records:
            return []
        asked = {model.asked(*records[0])}
        check_room(asked, model.renderer, model.contract, config.generate.max_new_tokens)
        check_fit(model, records, config.generate)
        rows = self._rows(records, config, model)
        summaries = [_summary(rows[record.id]) for record, _ in records]
        if not isinstance(texts, str):
            return summaries
        if summaries[0].error is not None:
            raise RunError(f"text: no summary: {summaries[0].error}")
        return summaries[0]

    def __enter__(self) -> "Summarizer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends vLLM, and frees its memory; a later call starts it again."""
        if self._engines is not None:
            self._engines.close()
            self._engines = None

    def _check_asked(self, instruction: str | None, language: str | None) -> None:
        contract, task = self._model.contract, self._source.task
        if task == "answer" and instruction is None:
            raise ConfigError("instruction: missing; this model answers a question")
        languages = sorted({one.language for one in contract.instructions if one.task == task})
        if language is not None and language not in languages:
            known = ", ".join(languages)
            raise ConfigError(
                f"language: {language!r}; the model was trained to be asked in {known}"
            )

    def _asking_for(
        self, max_words: int | None, sentences: int | None, instruction: str | None
    ) -> RunConfig:
        """The settings with a length. Raises ConfigError where it cannot be asked for."""
        lengths = {"max_words": max_words, "sentences": sentences}
        asked = [name for name, number in lengths.items() if number is not None]
        for name in asked:
            number = lengths[name]
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"{name}: must be a whole number from 1, got {number!r}")
        if not asked:
            return self._config
        if len(asked) > 1:
            raise ConfigError("max_words, sentences: ask for one of them")
        if not self._model.contract.length_control:
            raise ConfigError(
                f"{asked[0]}: the model was not trained with data.length_control; leave it out"
            )
        if instruction is not None and self._source.task != "answer":
            raise ConfigError(f"instruction: stands for itself; leave out {asked[0]}")
        generate = replace(self._config.generate, words=max_words, sentences=sentences)
        return replace(self._config, generate=generate)

    def _rows(
        self, records: Sequence[tuple[Record, Source]], config: RunConfig, model: Model
    ) -> dict[str, Row]:
        if self._engines is None:
            self._engines = Engines(
                model.folder, config.generate, model.contract.max_length, config.seed
            )
        rows = answers(self._engines, iter(records), config, model, lambda _: {})
        final: Iterable[Row] = (row for row in rows if "of" not in row)
        if sys.stderr.isatty():
            final = progress(final, "summarizing", total=len(records), unit=" texts")
        try:
            return {row["id"]: row for row in final}
        except BaseException:  # Ctrl-C too: what is in the engines is of no use any more
            self.close()
            raise


def _named(texts: str | Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each text, without the white space around it, and what it is called in messages."""
    if isinstance(texts, str):
        yield "text", _text("text", texts)
        return
    if isinstance(texts, bytes | Mapping) or not isinstance(texts, Iterable):
        raise DataError(f"texts: must be a string or several, not {describe(texts)}")
    for number, text in enumerate(texts):
        name = f"texts[{number}]"
        yield name, _text(name, text)


def _text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise DataError(f"{name}: not text but {describe(text)}")
    if not text.strip():
        raise DataError(f"{name}: is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name}: half a surrogate pair") from None
    return text.strip()


def _source(folder: Path, contract: Contract) -> Source:
    """What stands for a source of the run: of its first task but translation."""
    for trained in contract.instructions:
        if trained.task != "translate":
            question = "instruction" if trained.task == "answer" else None
            return Source(
                path=str(folder), task=trained.task, language=trained.language, instruction=question
            )
    raise ConfigError(f"{folder}: was trained to translate; use `sumzero generate`")


def _summary(row: Row) -> Summary:
    return Summary(**{name: row[name] for name in _FIELDS if name in row})
