"""Export + test records -> one row a record, exactly once, resumable.

    generations/FINGERPRINT/shard-00000.jsonl   rows as they finish, append-only
                            merged.jsonl        all rows in input order, proven complete
                            manifest.json       what made them

The fingerprint is a hash over weights, contract, sampling, engine version and input: a run resumes
only under the same one, so rows of different settings never mix.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumzero.config import RunConfig
from sumzero.contract import Contract, open_contract
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.infer.engine import Engine, Request, engine_version
from sumzero.infer.questions import asked_of, check_room, question_ids, read_test
from sumzero.loading import local_folder
from sumzero.log import logger, progress
from sumzero.prompt import PromptRenderer
from sumzero.records import Record
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, read_json, read_jsonl, write_json, write_jsonl
from sumzero.sentences import first_sentence

SYSTEMS = ("finetuned", "untrained", "lead1")
Row = dict[str, Any]


@dataclass(frozen=True)
class Generation:
    """A finished generation: its folder and manifest."""

    folder: Path
    manifest: dict[str, Any]

    def rows(self) -> list[Row]:
        """The merged rows, in input order."""
        return read_jsonl(self.folder / "merged.jsonl")


def generate(config: RunConfig, system: str = "finetuned") -> Generation:
    """Generates for every record of the test split, by one of SYSTEMS.

    "finetuned" is the export, "untrained" the model that training began with, under the same
    contract, and "lead1" the document's first sentence. Raises DataError, ConfigError or RunError
    for what the user can mend.
    """
    if not config.data.test:
        raise ConfigError("data.test: no records to generate for; set data.test.path")
    folder = RunFolder.of(config)
    records, sources = read_test(config)
    asked: list[str] = []
    if system == "lead1":
        made_by: dict[str, Any] = {"system": system}
    else:
        if not folder.export.is_dir():
            raise RunError(f"{folder.export} is missing; run `sumzero export RUN.toml` first")
        contract, renderer = open_contract(folder.export)
        asked = asked_of(records, sources, config, contract)
        check_room(set(asked), renderer, contract, config.generate.max_new_tokens)
        model = folder.export
        if system == "untrained":
            model = local_folder(folder.model_path(config), config.model.revision)
        made_by = {
            "system": system,
            "weights": weights_digest(model),
            "contract": contract.digest(),
            "sampling": as_dict(config.generate),
            "seed": config.seed,
            "engine": engine_version(),
            "asked": sorted(set(asked)),
        }
    made_by["documents"] = input_digest(records, [])
    made_by["input"] = input_digest(records, asked)
    fingerprint = _digest([json.dumps(made_by, sort_keys=True)])[:16]
    where = folder.generations / fingerprint
    if (where / "manifest.json").is_file():
        logger.info("generated already: %s", where)
        manifest = read_json(where / "manifest.json", "sumzero generate")
        manifest["finished"] = time.time()  # the newest counts
        write_json(where / "manifest.json", manifest)
        return Generation(where, manifest)

    where.mkdir(parents=True, exist_ok=True)
    shard = where / "shard-00000.jsonl"
    have = repair(shard)
    todo = [number for number, record in enumerate(records) if record.id not in have]
    if have:
        logger.info("%s: %d rows are there, %d to go", where, len(have), len(todo))
    begun = time.perf_counter()
    started = 0.0
    if todo:
        if system == "lead1":
            rows: Iterable[Row] = (_lead_row(records[number]) for number in todo)
        else:
            with progress(iter(()), "starting vLLM", total=1, unit="") as bar:
                bar.refresh()
                engine = Engine(model, config.generate, contract.max_length, config.seed)
                bar.update(1)
            started = time.perf_counter() - begun
            questions = [(records[number], asked[number]) for number in todo]
            rows = _engine_rows(engine, questions, config, contract, renderer)
        _append(shard, progress(rows, f"generating: {system}", total=len(todo), unit=" rows"))
    merged = merge(where, [record.id for record in records])
    manifest = {
        **made_by,
        "rows": len(merged),
        "errors": sum("error" in row for row in merged),
        "truncated": sum(bool(row.get("truncated")) for row in merged),
        "stopped_by_length": sum(row.get("finish_reason") == "length" for row in merged),
        "output_tokens": sum(row.get("output_tokens", 0) for row in merged),
        "seconds_start": round(started, 3),
        "seconds_generate": round(time.perf_counter() - begun - started, 3),
        "rows_made_now": len(todo),
        "finished": time.time(),
    }
    write_json(where / "manifest.json", manifest)
    return Generation(where, manifest)


def finished_generations(folder: RunFolder) -> dict[str, Generation]:
    """The newest finished generation of each system."""
    newest: dict[str, Generation] = {}
    for file in folder.generations.glob("*/manifest.json"):
        found = Generation(file.parent, read_json(file, "sumzero generate"))
        system = found.manifest["system"]
        if system not in newest or found.manifest["finished"] > newest[system].manifest["finished"]:
            newest[system] = found
    return {system: newest[system] for system in reversed(SYSTEMS) if system in newest}


def repair(shard: Path) -> set[str]:
    """Cuts a torn last line off a shard file and returns the ids of its whole rows."""
    if not shard.is_file():
        return set()
    content = shard.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        logger.warning("%s: cut off a torn last line of %d bytes", shard, len(content) - whole)
        with shard.open("r+b") as file:
            file.truncate(whole)
    try:
        return {json.loads(line)["id"] for line in content[:whole].splitlines()}
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{shard}: damaged; remove it and generate again") from None


def merge(where: Path, ids: list[str]) -> list[Row]:
    """Proves that every id has exactly one row, and writes them in input order.

    Raises RunError where one is missing, doubled or unknown.
    """
    rows: dict[str, Row] = {}
    for shard in sorted(where.glob("shard-*.jsonl")):
        with shard.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if row["id"] in rows:
                    raise RunError(f"{shard}:{number}: id {row['id']!r} stands there twice")
                rows[row["id"]] = row
    missing, unknown = set(ids) - rows.keys(), rows.keys() - set(ids)
    if missing or unknown:
        raise RunError(
            f"{where}: {len(missing)} inputs have no row, {len(unknown)} rows have no input, "
            f"{min(missing or unknown)!r} first"
        )
    merged = [rows[id_] for id_ in ids]
    write_jsonl(where / "merged.jsonl", merged)
    return merged


def input_digest(records: Sequence[Record], asked: Sequence[str]) -> str:
    """A hash over all of the records, and what they are asked, that decides what is generated.

    `asked` is empty where nothing is.
    """
    texts = asked or [""] * len(records)
    return _digest(
        json.dumps(
            [record.id, record.document, record.instruction, record.lead, record.metadata, text]
        )
        for record, text in zip(records, texts, strict=True)
    )


def weights_digest(model: Path) -> str:
    """A hash over the safetensors of a model folder. Raises DataError where there are none."""
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise DataError(f"{model}: no *.safetensors; a local model folder is needed")
    state = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            state.update(hashlib.file_digest(content, "sha256").digest())
    return state.hexdigest()


def _engine_rows(
    engine: Engine,
    questions: list[tuple[Record, str]],
    config: RunConfig,
    contract: Contract,
    renderer: PromptRenderer,
) -> Iterator[Row]:
    facts: dict[str, Row] = {}
    unfit: list[Row] = []

    def requests() -> Iterator[Request]:
        for record, text in questions:
            document = renderer.encode_text([record.document])[0]
            asked_ids = question_ids(renderer, text, record.instruction)
            limit = contract.prompt_limit(config.generate.max_new_tokens)
            prompt = renderer.prompt(document, limit, asked_ids)
            if prompt is None:
                reason = f"the prompt does not fit: {len(document)} document tokens"
                unfit.append({"id": record.id, "error": reason, **_metadata(record)})
                continue
            facts[record.id] = {
                "document_tokens": prompt.document_tokens,
                "document_kept": prompt.document_kept,
                "prompt_tokens": len(prompt.ids),
                "truncated": prompt.document_kept < prompt.document_tokens,
                "truncation": renderer.truncation.rule,
                **_metadata(record),
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


def _lead_row(record: Record) -> Row:
    text = record.lead or first_sentence(record.document)
    return {"id": record.id, "text": text, **_metadata(record)}


def _metadata(record: Record) -> Row:
    return {"metadata": record.metadata} if record.metadata else {}


def _append(shard: Path, rows: Iterable[Row]) -> None:
    with shard.open("a", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()


def _digest(parts: Iterable[str]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\0")
    return state.hexdigest()
