"""Records -> the token store: tokenised once, before training, into memory-mapped Arrow files.

A row of the store is an example: one document's prompt and its k targets, as token ids.

    id: string   prompt: list<int32>   targets: list<list<int32>>   document_tokens, document_kept

A target's ids end with the end of turn. Where prompt + target exceed the limit, only the document
is cut, for the longest target; a row whose target leaves no room for a document is rejected, never
shortened. Training reads the store and never tokenises.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from sumzero.config import RunConfig, Source, as_dict
from sumzero.errors import DataError, RunError
from sumzero.log import logger, progress
from sumzero.prompt import PromptRenderer
from sumzero.records import Record, Reject, Rejects, read
from sumzero.runfolder import RunFolder, read_json, write_json

_BATCH = 1000  # records tokenised at once, by all cores
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.list_(pa.int32()))),
        ("document_tokens", pa.int32()),
        ("document_kept", pa.int32()),
    ]
)


@dataclass
class SplitReport:
    """What became of a split's rows. Tokens are of prompts and targets as they are trained on."""

    read: int = 0
    kept: int = 0
    rejected: int = 0
    sequences: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    documents_cut: int = 0
    document_tokens_cut: int = 0


class TokenStore:
    """The examples of a split, memory-mapped. A sequence is one (example, target) pair."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise RunError(f"{file} is missing; run `sumzero prepare RUN.toml` first")
        self._rows = Dataset.from_file(str(file)).with_format("arrow")
        table = self._rows.data.table
        num_targets = pa.compute.list_value_length(table["targets"]).to_numpy()
        prompts = pa.compute.list_value_length(table["prompt"]).to_numpy()
        targets = pa.compute.list_value_length(pa.compute.list_flatten(table["targets"]))
        self.example_of = np.repeat(np.arange(len(num_targets)), num_targets)
        first = np.repeat(np.cumsum(num_targets) - num_targets, num_targets)
        self._target_of = np.arange(len(self.example_of)) - first
        # Tokens a target is predicted at, and tokens that are fed: the last is predicted only.
        self.supervised = targets.to_numpy().astype(np.int64)
        self.lengths = prompts[self.example_of].astype(np.int64) + self.supervised - 1

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.example_of)

    def sequence(self, index: int) -> tuple[list[int], list[int]]:
        """(prompt ids, target ids) of a sequence."""
        row = self._rows[int(self.example_of[index])]
        target = row["targets"][0][int(self._target_of[index])]
        return row["prompt"][0].as_py(), target.as_py()

    def identity(self, index: int) -> str:
        """The record id of a sequence."""
        return str(self._rows[int(self.example_of[index])]["id"][0].as_py())


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What the stores of a run depend on among its settings."""
    return {key: value for key, value in as_dict(config.data).items() if key != "test"}


def check_prepared(config: RunConfig, folder: RunFolder) -> str:
    """The digest of the prepared data. Raises RunError where they were prepared otherwise."""
    report = read_json(folder.data_report, "sumzero prepare RUN.toml")
    now = settings_of(config)
    changed = [
        key for key in now | report["settings"] if now.get(key) != report["settings"].get(key)
    ]
    if changed:
        names = ", ".join(f"data.{key}" for key in sorted(changed))
        raise RunError(
            f"{folder.data}: prepared with other settings ({names}); run `sumzero prepare`"
        )
    return str(report["digest"])


def store_file(folder: RunFolder, split: str) -> Path:
    """Where the store of a split lies."""
    return folder.data / f"{split}.arrow"


def prepare(config: RunConfig, folder: RunFolder, renderer: PromptRenderer) -> dict[str, Any]:
    """Builds the stores of the train and validation splits and `data_report.json`.

    Does nothing where data, settings and tokenizer are those of the stores that are there. The test
    split is read too, so that its faults show before training. Raises DataError where a split has
    no usable row; nothing then replaces an earlier store.
    """
    sources = {
        split: source
        for split, source in (("train", config.data.train), ("validation", config.data.validation))
        if source is not None
    }
    if "train" not in sources:
        raise DataError("data.train: no training data; set data.train.path")
    test = config.data.test
    digest = _digest(config, sources | ({"test": test} if test else {}), renderer)
    files = {split: store_file(folder, split) for split in sources}
    if folder.data_report.is_file() and all(file.is_file() for file in files.values()):
        report: dict[str, Any] = read_json(folder.data_report, "sumzero prepare")
        if report.get("digest") == digest:
            logger.info("data is prepared already: %s", folder.data_report)
            return report
    folder.data.mkdir(parents=True, exist_ok=True)
    folder.data_report.unlink(missing_ok=True)  # what follows is not what it speaks of
    rejects = Rejects()
    splits = {}
    for split, source in sources.items():
        rejected = Rejects()
        splits[split] = _build(source, files[split], config, renderer, split, rejected)
        rejects.rows += rejected.rows
    if test:
        rejected = Rejects()
        count = sum(1 for _ in rejected.sift(read(test, need_targets=True)))
        rejected.finish(test, count)
        rejects.rows += rejected.rows
        splits["test"] = SplitReport(count + len(rejected.rows), count, len(rejected.rows))
    rejects.write(folder.rejected)
    report = {
        "digest": digest,
        "settings": settings_of(config),
        "splits": {split: asdict(counts) for split, counts in splits.items()},
        "rejected_by_reason": rejects.reasons(),
    }
    write_json(folder.data_report, report)
    return report


def _build(
    source: Source,
    file: Path,
    config: RunConfig,
    renderer: PromptRenderer,
    split: str,
    rejects: Rejects,
) -> SplitReport:
    report = SplitReport()
    partial = file.with_suffix(".partial")
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as out:
            records = rejects.sift(read(source, need_targets=True))
            with progress(iter(()), f"tokenising {split}", unit=" records") as bar:
                while batch := list(islice(records, _BATCH)):
                    rows = list(_examples(batch, source, config, renderer, report, rejects))
                    out.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                    report.kept += len(rows)
                    bar.update(len(batch))
        rejects.finish(source, report.kept)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    report.rejected = len(rejects.rows)
    report.read = report.kept + report.rejected
    if report.documents_cut:
        logger.info(
            "%s: %d of %d documents cut (%s), %d tokens left out",
            split,
            report.documents_cut,
            report.kept,
            config.data.truncation,
            report.document_tokens_cut,
        )
    return report


def _examples(
    batch: list[Record],
    source: Source,
    config: RunConfig,
    renderer: PromptRenderer,
    report: SplitReport,
    rejects: Rejects,
) -> Iterator[dict[str, Any]]:
    data = config.data
    documents = renderer.encode_text([record.document for record in batch])
    texts = iter(renderer.encode_text([text for record in batch for text in record.targets]))
    for record, document in zip(batch, documents, strict=True):
        targets = [next(texts) + renderer.end_ids for _ in record.targets]
        longest = max(len(target) for target in targets)
        limit = min(data.max_prompt or data.max_length, data.max_length - longest)
        prompt = renderer.prompt(document, limit, record.instruction)
        if prompt is None:
            reason = _why_too_long(len(document), longest, limit, config, renderer, record)
            if data.truncation == "error" and "target" not in reason:
                raise DataError(f"{source.path}:{record.line}: {reason}")
            rejects.add(Reject(source.path, record.line, reason, record.id))
            continue
        cut = prompt.document_tokens - prompt.document_kept
        report.sequences += len(targets)
        report.tokens += sum(len(prompt.ids) + len(target) for target in targets)
        report.supervised_tokens += sum(map(len, targets))
        report.documents_cut += cut > 0
        report.document_tokens_cut += cut
        yield {
            "id": record.id,
            "prompt": prompt.ids,
            "targets": targets,
            "document_tokens": prompt.document_tokens,
            "document_kept": prompt.document_kept,
        }


def _why_too_long(
    document: int,
    target: int,
    limit: int,
    config: RunConfig,
    renderer: PromptRenderer,
    record: Record,
) -> str:
    fixed = renderer.fixed_tokens(record.instruction)
    if limit - fixed < 1:
        return (
            f"target too long: {target} tokens, with {fixed} of template and instruction, leave no "
            f"room for the document in data.max_length = {config.data.max_length}"
        )
    return (
        f"document too long: {document} tokens, {limit - fixed} fit, and data.truncation = "
        f'"{config.data.truncation}" does not cut'
    )


def _digest(config: RunConfig, sources: dict[str, Source], renderer: PromptRenderer) -> str:
    state = hashlib.sha256()
    for split, source in sources.items():
        state.update(f"{split} {json.dumps(as_dict(source))}".encode())
        file = Path(source.path)
        if not file.is_file():
            raise DataError(f"{file}: no such file (data.{split}.path)")
        with file.open("rb") as content:
            state.update(hashlib.file_digest(content, "sha256").digest())
    data = as_dict(config.data)
    limits = {key: data.get(key) for key in ("max_length", "max_prompt", "truncation")}
    state.update(json.dumps([renderer.instruction, limits, renderer.end_ids]).encode())
    state.update(renderer.tokenizer.backend_tokenizer.to_str().encode())
    state.update(str(renderer.tokenizer.chat_template).encode())
    return state.hexdigest()
