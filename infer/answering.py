"""Answers of a model: what it is, what its records are asked, and rows as its engine makes them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero.config import RunConfig, Source
from sumzero.contract import Contract, open_contract
from sumzero.infer.engine import Engine, Request, engine_version
from sumzero.infer.inputs import Inputs
from sumzero.infer.questions import Asked, all_asked, asking, check_room, question_ids
from sumzero.infer.rows import Row
from sumzero.loading import local_folder
from sumzero.log import progress
from sumzero.prompt import PromptRenderer
from sumzero.records import Record
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder
from sumzero.weights_digest import weights_digest


@dataclass(frozen=True)
class Model:
    """What generates: a folder, the contract it generates under, and what it is asked."""

    folder: Path
    contract: Contract
    renderer: PromptRenderer
    asked: Asked


def open_model(config: RunConfig, system: str, inputs: Inputs) -> tuple[Model, dict[str, Any]]:
    """The model of a system, and what a generation by it is made by.

    Raises RunError where the export does not keep its contract; ConfigError where the records
    cannot be asked for, or there is no room for a document.
    """
    folder = RunFolder.of(config)
    contract, renderer = open_contract(folder.export)
    asked = asking(config, contract)
    texts, digest = all_asked(inputs, asked)
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
        "asked": texts,
        "input": digest,
    }
    return Model(path, contract, renderer, asked), made_by


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
) -> Iterator[Row]:
    """A row for each record, as they finish; one whose prompt does not fit has its error."""
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
            if prompt is None:
                reason = f"the prompt does not fit: {len(document)} document tokens"
                unfit.append({"id": record.id, "error": reason, **record.beside()})
                continue
            facts[record.id] = {
                "document_tokens": prompt.document_tokens,
                "document_kept": prompt.document_kept,
                "prompt_tokens": len(prompt.ids),
                "truncated": prompt.document_kept < prompt.document_tokens,
                "truncation": renderer.truncation.rule,
                **record.beside(),
            }
            yield Request(record.id, prompt.ids)

    for done in engine.generate(requests(), contract.stop_ids, config.seed):
        yield {
            "id": done.id,
            "text": done.text.strip(),
            **facts.pop(done.id),
            "output_tokens": done.output_tokens,
            "finish_reason": done.finish_reason,
            "seconds": round(done.seconds, 4),
        }
        yield from unfit
        unfit.clear()
    yield from unfit
