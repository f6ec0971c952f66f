"""Test records, and what each of them is asked at inference.

A record is asked as the export's contract has it for the task and language of its source, or in the
words of its own instruction.
"""

from collections.abc import Collection, Sequence

from sumzero.config import RunConfig, Source
from sumzero.contract import Contract
from sumzero.errors import ConfigError, DataError
from sumzero.instructions import QUESTION, instruction_set
from sumzero.prompt import PromptRenderer
from sumzero.records import Record, read_all


def read_test(
    config: RunConfig, *, need_targets: bool = False
) -> tuple[list[Record], list[Source]]:
    """The records of all test sources, and each one's source. Raises DataError on a shared id."""
    records: list[Record] = []
    source_of: dict[str, Source] = {}
    for source in config.data.test:
        for record in read_all((source,), need_targets=need_targets)[0]:
            if record.id in source_of:
                raise DataError(
                    f"{source.path}:{record.line}: id {record.id!r} is also in "
                    f"{source_of[record.id].path}; results are told apart by it"
                )
            records.append(record)
            source_of[record.id] = source
    return records, list(source_of.values())


def asked_of(
    records: Sequence[Record], sources: Sequence[Source], config: RunConfig, contract: Contract
) -> list[str]:
    """What each record is asked; {question} in it stands for the record's own instruction.

    `sources` are the records' own. Raises ConfigError where a source cannot be asked for.
    """
    texts: dict[tuple[Source, str], str] = {}
    asked = []
    for record, source in zip(records, sources, strict=True):
        if record.instruction is not None and source.task != "answer":
            asked.append(QUESTION)
            continue
        key = (source, record.language)
        if key not in texts:
            texts[key] = contract.asked(*key, config.data, config.generate)
        asked.append(texts[key])
    return asked


def references(
    records: Sequence[Record], sources: Sequence[Source], config: RunConfig
) -> list[tuple[str, ...]]:
    """The texts that each record is held against.

    Of a question that its document does not answer, it is the set's `unanswerable`.
    """
    found = []
    for record, source in zip(records, sources, strict=True):
        targets = record.targets
        if not targets:
            asks = instruction_set(source, config.data, record.language)
            assert asks.unanswerable, "only a question may have no target"
            targets = (asks.unanswerable,)
        found.append(targets)
    return found


def question_ids(renderer: PromptRenderer, text: str, question: str | None) -> list[int]:
    """The ids of what is asked; `question` is left out where the text has no place for it."""
    return renderer.ask(text, question if QUESTION in text else None)


def check_room(
    texts: Collection[str], renderer: PromptRenderer, contract: Contract, max_new_tokens: int
) -> None:
    """Raises ConfigError where a prompt that asks one of `texts` has no room for a document."""
    fixed = (renderer.fixed_tokens(question_ids(renderer, text, "")) for text in texts)
    if contract.max_length - max_new_tokens <= max(fixed):
        raise ConfigError(
            f"generate.max_new_tokens = {max_new_tokens}: leaves no room for a document in the "
            f"model's {contract.max_length} tokens"
        )
