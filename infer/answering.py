"""Answers of a model: what it is, what its records are asked, and rows as its engine makes them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sumzero.config import RunConfig, Source
from sumzero.contract import Contract, open_contract
from sumzero.infer.engine import Completion, Failure, Request
from sumzero.infer.engines import Crew, Engines
from sumzero.infer.forest import IN_PARTS, mark_of
from sumzero.infer.inputs import Inputs
from sumzero.infer.installed_vllm import engine_version
from sumzero.infer.long_answers import LongAnswers
from sumzero.infer.questions import Asked, all_asked, asking, check_room, question_ids
from sumzero.infer.rows import Parts, Row, answer_row, prompt_facts
from sumzero.loading import local_folder
from sumzero.prompt import PromptRenderer
from sumzero.records import Record
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder
from sumzero.weights_digest import weights_digest


class Answering(Protocol):
    """What generation uses of an engine, of several, or of what stands in for one."""

    def generate(
        self, requests: Iterable[Request | None], stop_ids: list[int], seed: int
    ) -> Iterator[Completion | Failure]:
        """Yields what becomes of each request, in any order.

        They may give None for "none just now", as long as others are at work.
        """


@dataclass(frozen=True)
class Model:
    """What generates: a folder, the contract it generates under, and what it is asked.

    `adapters` are folders of those that its requests may run with; `mark` is that of
    `forest.mark_of`, for its records' ids.
    """

    folder: Path
    contract: Contract
    renderer: PromptRenderer
    asked: Asked
    adapters: tuple[Path, ...] = ()
    mark: str = "#"


def open_model(config: RunConfig, system: str, inputs: Inputs) -> tuple[Model, dict[str, Any]]:
    """The model of a system, and what a generation by it is made by.

    Raises RunError where the export does not keep its contract; ConfigError where the records
    cannot be asked for, or there is no room for a document.
    """
    folder = RunFolder.of(config)
    contract, renderer = open_contract(folder.export)
    path = folder.export
    if system == "untrained":
        path = local_folder(folder.model_path(config), config.model.revision)
    return model_under(contract, renderer, path, config, inputs)


def model_under(
    contract: Contract,
    renderer: PromptRenderer,
    path: Path,
    config: RunConfig,
    inputs: Inputs,
    digest: Callable[[Path], str] = weights_digest,
) -> tuple[Model, dict[str, Any]]:
    """The model of a folder under an opened contract; else as `open_model`."""
    asked = asking(config, contract)
    texts, of_inputs = all_asked(inputs, asked)
    check_room(texts, renderer, contract, config.generate.max_new_tokens)
    made_by = {
        "weights": digest(path),
        "contract": contract.digest(),
        "sampling": as_dict(replace(config.generate, engines=None)),  # which alters no text
        "seed": config.seed,
        "engine": engine_version(),
        "asked": texts,
        "input": of_inputs,
    }
    mark = mark_of(inputs.all_ids()) if config.generate.long in IN_PARTS else "#"
    return Model(path, contract, renderer, asked, mark=mark), made_by


def start_engines(model: Model, config: RunConfig, rows: int, crew: Crew | None = None) -> Engines:
    """vLLM with the model, as many times as there is room here; at most one for each row.

    A document that is summarized in parts has work for several.
    """
    return Engines(
        *(model.folder, config.generate, model.contract.max_length, config.seed),
        adapters=model.adapters,
        most=None if config.generate.long in IN_PARTS else rows,
        crew=crew,
    )


def answers(
    engine: Answering,
    records: Iterator[tuple[Record, Source]],
    config: RunConfig,
    model: Model,
    parts: Parts,
) -> Iterator[Row]:
    """A row for each record, as they finish; one that cannot be answered has its error.

    By "map_reduce" and "refine" there are rows of the parts of a document too, which have `of`, the
    record's id; `parts` gives those that were made before.
    """
    if config.generate.long in IN_PARTS:
        trees = LongAnswers(model, config.generate, parts)
        yield from trees.rows(engine, records, config.seed)
        return
    contract, renderer = model.contract, model.renderer
    facts: dict[str, Row] = {}
    unfit: list[Row] = []

    def requests() -> Iterator[Request]:
        for record, source in records:
            document = renderer.encode_text([record.document])[0]
            text = model.asked(record, source)
            asked_ids = question_ids(renderer, text, record.instruction)
            limit = contract.prompt_limit(config.generate.max_new_tokens)
            prompt = renderer.prompt(document, limit, asked_ids)
            # `check_fit` does not look at one with fewer bytes than there is room for tokens.
            uncut = config.generate.long is None
            if prompt is None or (uncut and prompt.document_kept < len(document)):
                reason = f"the prompt does not fit: {len(document)} document tokens"
                unfit.append({"id": record.id, "error": reason, **record.beside()})
                continue
            facts[record.id] = prompt_facts(
                record, len(document), prompt.document_kept, len(prompt.ids), contract.truncation
            )
            yield Request(record.id, prompt.ids, record.document)

    for done in engine.generate(requests(), contract.stop_ids, config.seed):
        yield answer_row(done, facts.pop(done.id))
        yield from unfit
        unfit.clear()
    yield from unfit
