"""Answers of a model: what it is, what its records are asked, and rows as its engine makes them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero.config import RunConfig, Source
from sumzero.contract import Contract, open_contract
from sumzero.infer.engine import Engine, Request, engine_version
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.forest import IN_PARTS, mark_of
from sumzero.infer.inputs import Inputs
from sumzero.infer.long_answers import LongAnswers
from sumzero.infer.questions import asking, check_room, question_ids
from sumzero.infer.rows import Nodes, Row, answer_row, prompt_facts
from sumzero.loading import local_folder
from sumzero.log import progress
from sumzero.prompt import PromptRenderer
from sumzero.records import Record
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder
from sumzero.weights_digest import weights_digest


@dataclass(frozen=True)
class Model:
    """What generates: a folder, the contract it generates under, and what it is asked.

    `mark` is that of `forest.mark_of`, for its records' ids.
    """

    folder: Path
    contract: Contract
    renderer: PromptRenderer
    asked: Callable[[Record, Source], str]
    mark: str = "#"


def open_model(config: RunConfig, system: str, inputs: Inputs) -> tuple[Model, dict[str, Any]]:
    """The model of a system, and what a generation by it is made by.

    Raises RunError where the export does not keep its contract; ConfigError where the records
    cannot be asked for, or there is no room for a document.
    """
    folder = RunFolder.of(config)
    contract, renderer = open_contract(folder.export)
    asked = asking(config, contract)
    texts: set[str] = set()

    def all_asked() -> Iterator[tuple[Record, str]]:
        for record, source in inputs:
            text = asked(record, source)
            texts.add(text)
            yield record, text

    digest = input_digest(all_asked())
    check_room(texts, renderer, contract, config.generate.max_new_tokens)
    path = folder.export
    if system == "untrained":
        path = local_folder(folder.model_path(config), config.model.revision)
    made_by = {
        "weights": weights_digest(path),
        "contract": contract.digest(),
        "sampling": as_dict(config.generate),
        "seed": config.seed,
        "engine": engine_version(),
        "asked": sorted(texts),
        "input": digest,
    }
    mark = mark_of(inputs.all_ids()) if config.generate.long in IN_PARTS else "#"
    return Model(path, contract, renderer, asked, mark), made_by


def start_engine(model: Model, config: RunConfig) -> tuple[Engine, float]:
    """vLLM with the model, and the seconds that its start took."""
    begun = time.perf_counter()
    with progress(iter(()), "starting vLLM", total=1, unit="") as bar:
        bar.refresh()
        engine = Engine(model.folder, config.generate, model.contract.max_length, config.seed)
        bar.update(1)
    return engine, time.perf_counter() - begun


def answers(
    engine: Engine,
    records: Iterator[tuple[Record, Source]],
    config: RunConfig,
    model: Model,
    nodes: Nodes,
) -> Iterator[Row]:
    """A row for each record, as they finish; one whose prompt does not fit has its error.

    By "map_reduce" and "refine" there are rows of the other prompts of a document too, which have
    `of`, the record's id; `nodes` are those that were made before.
    """
    if config.generate.long in IN_PARTS:
        trees = LongAnswers(model, config.generate, nodes)
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
            yield Request(record.id, prompt.ids)

    for done in engine.generate(requests(), contract.stop_ids, config.seed):
        yield answer_row(done, facts.pop(done.id))
        yield from unfit
        unfit.clear()
    yield from unfit
