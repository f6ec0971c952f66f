"""Instruction sets: how a task is asked for in a language, in several paraphrases.

A set is a TOML file; SumZero's own lie in recipes/instructions. Training asks with one or another
(train/paraphrases.py), inference with the first one. Words in braces are slots:

    {length}            how long the target is: " in one sentence"; empty without length control
    {question}          task "answer": the row's question, encoded apart from the rest
    {target_language}   task "translate"
"""

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from sumzero.config import Data, Source
from sumzero.errors import ConfigError
from sumzero.sentences import sentences as split_sentences

QUESTION = "{question}"
VERBATIM = (QUESTION,)  # the ways to ask where a row brings its own instruction: its text alone
_NEEDED = {"summarize": set(), "answer": {"question"}, "translate": {"target_language"}}
_SLOT = re.compile(r"\{(\w+)\}")
_FOLDER = Path(__file__).parent / "recipes" / "instructions"
_WRITTEN_WITHOUT_SPACES = ("zh", "ja")  # a length is counted in characters
_WORDS_STEP = 5  # a model learns round limits sooner, and few distinct ones are cheap to encode
_STRICT = ConfigDict(extra="forbid", strict=True)

Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Length:
    """What stands for {length}; {n} is the number."""

    one_sentence: Text
    sentences: Text
    words: Text

    @model_validator(mode="after")
    def _slots(self) -> "Length":
        for name, needed in (("one_sentence", []), ("sentences", ["n"]), ("words", ["n"])):
            if _SLOT.findall(getattr(self, name)) != needed:
                need = "holds {n} once" if needed else "has no slots"
                raise ValueError(f"{name} {need} (got {getattr(self, name)!r})")
        return self


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class InstructionSet:
    """The paraphrases of one task in one language, and what fills them."""

    task: Literal["summarize", "answer", "translate"]
    language: Text
    paraphrases: Annotated[tuple[Text, ...], Field(min_length=1)]
    length: Length | None = None
    unanswerable: Text | None = None
    """The target of a question that the document does not answer."""
    languages: dict[str, Text] = field(default_factory=dict, hash=False)
    """Names of languages by code; a code that is not here is used as it stands."""

    @model_validator(mode="after")
    def _consistent(self) -> "InstructionSet":
        known = _NEEDED[self.task] | {"length"}
        for number, text in enumerate(self.paraphrases):
            slots = _SLOT.findall(text)
            where = f"paraphrases.{number} {text!r}"
            if unknown := set(slots) - known:
                raise ValueError(f"{where}: no such slot: {{{min(unknown)}}}")
            if missing := _NEEDED[self.task] - set(slots):
                raise ValueError(f'{where}: task "{self.task}" needs {{{min(missing)}}}')
            if len(slots) != len(set(slots)):
                raise ValueError(f"{where}: a slot stands there twice")
            if "length" in slots and self.length is None:
                raise ValueError(f"{where}: {{length}} needs a [length] table")
            if text in self.paraphrases[:number]:
                raise ValueError(f"{where}: stands there twice")
        if self.length and "{length}" not in self.paraphrases[0]:
            raise ValueError("paraphrases.0: inference uses it, so with [length] it needs {length}")
        if (self.unanswerable is not None) != (self.task == "answer"):
            raise ValueError('unanswerable: task "answer" needs it, and no other task has it')
        if self.languages and self.task != "translate":
            raise ValueError('languages: only task "translate" has it')
        return self

    def ways(
        self, target: str | None, *, target_language: str | None = None, length_control: bool
    ) -> tuple[str, ...]:
        """All texts that `target` may be asked for with; {question} is still in them.

        With length control, a paraphrase that has the slot is there without a length, with the
        target's number of sentences, and with its words (characters in Chinese and Japanese)
        rounded up to a multiple of 5.
        """
        if not length_control or self.length is None or target is None:
            return _ways(self, None, None, target_language)
        words = len(target.split())
        if primary(self.language) in _WRITTEN_WITHOUT_SPACES:
            words = sum(map(len, target.split()))
        limit = max(1, -(-words // _WORDS_STEP)) * _WORDS_STEP
        return _ways(self, max(1, len(split_sentences(target))), limit, target_language)

    def inference(
        self,
        words: int | None = None,
        sentences: int | None = None,
        target_language: str | None = None,
    ) -> str:
        """The first paraphrase, with the length asked for; {question} is still in it.

        Raises ConfigError where both lengths are given, or the set has no words for one.
        """
        if words and sentences:
            raise ConfigError("generate.words, generate.sentences: ask for one of them")
        if (words or sentences) and self.length is None:
            key = "words" if words else "sentences"
            raise ConfigError(
                f'generate.{key}: the instructions for task "{self.task}" in {self.language!r} '
                "have no {length}; leave it out"
            )
        phrase = self._sentences(sentences) if sentences else self._words(words) if words else ""
        return self._fill(self.paraphrases[0], phrase, target_language)

    def _sentences(self, number: int) -> str:
        assert self.length
        if number == 1:
            return self.length.one_sentence
        return self.length.sentences.replace("{n}", str(number))

    def _words(self, number: int) -> str:
        assert self.length
        return self.length.words.replace("{n}", str(number))

    def _fill(self, paraphrase: str, length: str, target_language: str | None) -> str:
        text = paraphrase.replace("{length}", length)
        if "{target_language}" not in text:
            return text
        assert target_language, "a source of task translate has one"
        return text.replace(
            "{target_language}", self.languages.get(target_language, target_language)
        )


def instruction_set(source: Source, data: Data, language: str) -> InstructionSet:
    """How `source` is asked in `language`: by its own file, `data.instruction`, or the bundled set.

    The source's file counts for the source's own language. `data.instruction` takes length words,
    language names and `unanswerable` from the bundled set. Of a language with a region ("zh-CN")
    the bundled set of the language ("zh") serves. Raises ConfigError where there is none, or it is
    at fault.
    """
    if source.instructions is not None and language == source.language:
        found = read_instructions(Path(source.instructions))
        for name in ("task", "language"):
            if getattr(found, name) != getattr(source, name):
                raise ConfigError(
                    f"{source.instructions}: {name}: is {getattr(found, name)!r}, but that of the "
                    f"source {source.path} is {getattr(source, name)!r}"
                )
        return found
    own = bundled(source.task, language)
    if data.instruction is None:
        if own is None:
            have = ", ".join(bundled_languages(source.task))
            raise ConfigError(
                f'{source.path}: no instructions for task "{source.task}" in language {language!r} '
                f"(there are: {have}); write them into a TOML file, as those in "
                "recipes/instructions, and give it to the source as `instructions`"
            )
        return own
    values: dict[str, Any] = {
        "task": source.task,
        "language": language,
        "paraphrases": [data.instruction],
    }
    if own:
        values |= {"unanswerable": own.unanswerable, "languages": own.languages}
        if own.length and "{length}" in data.instruction:
            values["length"] = vars(own.length)
    return parse_instructions(values, "data.instruction")


def trained_set(
    sets: Iterable[InstructionSet], source: Source, data: Data, language: str
) -> InstructionSet | None:
    """Of the sets that a model was trained with, the one for the source's task and the language.

    Of several it is the source's own, if that is among them.
    """
    of_task = [one for one in sets if one.task == source.task]
    trained = [one for one in of_task if one.language == language] or [
        one for one in of_task if one.language == primary(language)
    ]
    if len(trained) > 1:
        own = instruction_set(source, data, language)
        return own if own in trained else trained[0]
    return trained[0] if trained else None


def sets_of(sources: Iterable[Source], data: Data) -> list[InstructionSet]:
    """The sets that sources are asked with, each once, in the order of the sources.

    Where rows have languages of their own, the sets of all languages may be met. Raises ConfigError
    as `instruction_set`.
    """
    found: dict[InstructionSet, None] = {}
    for source in sources:
        languages = [source.language]
        if source.language_column is not None:
            languages += bundled_languages(source.task)
        for language in languages:
            found[instruction_set(source, data, language)] = None
    return list(found)


def bundled(task: str, language: str) -> InstructionSet | None:
    """SumZero's own set for a task and language; None where it has none."""
    have = bundled_languages(task)  # a language comes from a row and must not name a file
    for code in (language, primary(language)):
        if code in have:
            return read_instructions(_FOLDER / f"{task}_{code}.toml")
    return None


def bundled_languages(task: str) -> list[str]:
    """The languages that SumZero has a set for."""
    return sorted(file.stem.partition("_")[2] for file in _FOLDER.glob(f"{task}_*.toml"))


def read_instructions(file: Path) -> InstructionSet:
    """Reads an instruction file. Raises ConfigError naming file and key."""
    try:
        return _read(file, file.stat().st_mtime_ns)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file of instructions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=64)
def _read(file: Path, _modified: int) -> InstructionSet:
    return parse_instructions(tomllib.loads(file.read_text(encoding="utf-8-sig")), str(file))


def parse_instructions(values: Any, origin: str) -> InstructionSet:
    """A set from plain values. Raises ConfigError naming `origin` and every faulty key."""
    try:
        return TypeAdapter(InstructionSet).validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        problems = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "unexpected_keyword_argument":
                message = "no such key"
            problems.append(": ".join(filter(None, (origin, key, message))))
        raise ConfigError(problems) from None


@lru_cache(maxsize=1 << 14)
def _ways(
    of: InstructionSet, num_sentences: int | None, words: int | None, target_language: str | None
) -> tuple[str, ...]:
    found = []
    for paraphrase in of.paraphrases:
        lengths = [""]
        if num_sentences and words and "{length}" in paraphrase:
            lengths += [of._sentences(num_sentences), of._words(words)]
        found += [of._fill(paraphrase, length, target_language) for length in lengths]
    return tuple(found)


def primary(language: str) -> str:
    """The language of a code with a region or script: "zh" of "zh-CN"."""
    return re.split(r"[-_]", language.lower())[0]
