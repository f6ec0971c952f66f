"""Test records, and what each of them is asked at inference.

A record is asked as the export's contract has it for the task and language of its source, or in the
words of its own instruction.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from sumzero.config import RunConfig, Source
from sumzero.errors import ConfigError, DataError
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.ids import IdSet
from sumzero.instructions import QUESTION, instruction_set, sets_of, trained_set
from sumzero.records import Record, Reject, Rejects, first_of_each_id

if TYPE_CHECKING:  # they load torch, which a generation without a model does not need
    from sumzero.contract import Contract
    from sumzero.prompt import PromptRenderer


def each_record(
    sources: Sequence[Source], *, need_targets: bool, rejected: list[Reject] | None = None
) -> Iterator[tuple[Record, Source]]:
    """The records of all sources, in order, each with its source; `rejected` gets the other rows.

    Raises DataError on an id of two sources, and where no row of a source can be used.
    """
    earlier: list[tuple[Source, IdSet]] = []
    for source in sources:
        rejects, own, kept = Rejects(), IdSet(), 0
        rows = first_of_each_id(source, need_targets=need_targets, seen=IdSet())
        for record in rejects.sift(rows):
            for other, ids in earlier:
                if record.id in ids:
                    raise DataError(
                        f"{source.path}:{record.line}: id {record.id!r} is also in "
                        f"{other.path}; results are told apart by it"
                    )
            kept += 1
            if len(sources) > 1:
                own.add(record.id)
            yield record, source
        rejects.finish(source, kept)
        if rejected is not None:
            rejected += rejects.rows
        earlier.append((source, own))


Asked = Callable[[Record, Source], str]
"""What a record of a source is asked; {question} in it stands for its own instruction."""


def asking(config: RunConfig, contract: "Contract | None") -> Asked:
    """Asks as the contract does; without one, of a model that others have trained, as the run does.

    The function raises ConfigError where the source cannot be asked for.
    """
    texts: dict[tuple[Source, str], str] = {}

    def asked(record: Record, source: Source) -> str:
        if record.instruction is not None and source.task != "answer":
            return QUESTION
        key = (source, record.language)
        if key not in texts:
            texts[key] = (
                contract.asked(*key, config.data, config.generate)
                if contract
                else _run_asks(*key, config)
            )
        return texts[key]

    return asked


def _run_asks(source: Source, language: str, config: RunConfig) -> str:
    """What a contract would ask that was made of the run's settings."""
    chosen = trained_set(
        sets_of(config.data.train, config.data), source, config.data, language
    ) or instruction_set(source, config.data, language)
    wanted = config.generate
    return chosen.inference(wanted.words, wanted.sentences, source.target_language)


def all_asked(inputs: Iterable[tuple[Record, Source]], asked: Asked) -> tuple[list[str], str]:
    """What the records are asked, each text once, and a digest over them and what each is asked."""
    texts: set[str] = set()

    def pairs() -> Iterator[tuple[Record, str]]:
        for record, source in inputs:
            text = asked(record, source)
            texts.add(text)
            yield record, text

    digest = input_digest(pairs())
    return sorted(texts), digest


def references(record: Record, source: Source, config: RunConfig) -> tuple[str, ...]:
    """The texts that a record is held against.

    Of a question that its document does not answer, it is the set's `unanswerable`.
    """
    if record.targets:
        return record.targets
    asks = instruction_set(source, config.data, record.language)
    assert asks.unanswerable, "only a question may have no target"
    return (asks.unanswerable,)


def question_ids(renderer: "PromptRenderer", text: str, question: str | None) -> list[int]:
    """The ids of what is asked; `question` is left out where the text has no place for it."""
    return renderer.ask(text, question if QUESTION in text else None)


def check_room(
    texts: Collection[str], renderer: "PromptRenderer", contract: "Contract", max_new_tokens: int
) -> None:
    """Raises ConfigError where a prompt that asks one of `texts` has no room for a document."""
    fixed = max(renderer.fixed_tokens(question_ids(renderer, text, "")) for text in texts)
    if contract.max_length - max_new_tokens <= fixed:
        raise ConfigError(
            f"generate.max_new_tokens = {max_new_tokens}: leaves no room for a document in the "
            f"model's {contract.max_length} tokens"
        )
    if contract.prompt_limit(max_new_tokens) <= fixed:
        raise ConfigError(
            f"what stands around a document has {fixed} tokens, and the model was trained on "
            f"prompts of {contract.max_prompt} at most (data.max_prompt), which leaves no room for "
            "a document; ask in fewer words"
        )
