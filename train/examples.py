"""Records -> the token stores of a run: `sumzero prepare`, on a CPU, before any GPU is held.

    blocks of rows --workers--> parts --hashes, sorted--> store: an example a row, a document once

Joins hold at most four arrays of 8 bytes a record. A stopped preparation goes on from its
parts; a store whose content and settings have not changed is kept. Where prompt and target exceed
the limit only the document is cut, or the row is rejected with its reason: read = kept + rejected.
"""

import hashlib
import json
import os
import shutil
from array import array
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sumzero.config import Data, RunConfig, Source
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.instructions import sets_of
from sumzero.log import logger
from sumzero.prompt import PromptRenderer
from sumzero.readers import digest
from sumzero.records import Reject, first_of_each_id
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, atomic_file, read_json, write_json
from sumzero.train.data_report import describe, describe_plan, leakage
from sumzero.train.epoch import Epochs
from sumzero.train.joins import Parts, examples, join, number_ways, repeats
from sumzero.train.parts import Tokeniser, Ways, hash_of
from sumzero.train.store import SCHEMA, Template, TokenStore
from sumzero.train.tally import Tally
from sumzero.train.workers import tokenise

_FORMAT = 2  # of the stores
_SPLITS = ("train", "validation", "test")
_LATER = ("share_documents",)  # settings that no store depends on
_NOT_OF_DATA = ("model", "model.scratch", "seed", "instructions")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What the stores of a run, and the words that its export will ask with, depend on."""
    data, model = config.data, config.model
    values = _of_data(data)
    sets = [asdict(one) for one in sets_of(data.train + data.validation, data)]
    values["instructions"] = hashlib.sha256(json.dumps(sets).encode()).hexdigest()
    values["model"] = {"path": model.path, "revision": model.revision}
    if model.path == "scratch":
        values |= {"model.scratch": as_dict(model.scratch), "seed": config.seed}
    for split in ("train", "validation"):
        values[split] = [_of_source(source) for source in getattr(config.data, split)]
    return values


def _of_data(data: Data) -> dict[str, Any]:
    return {key: value for key, value in as_dict(data).items() if key not in _SPLITS + _LATER}


def _of_source(source: Source) -> dict[str, Any]:
    return {key: value for key, value in as_dict(source).items() if key != "weight"}


def check_prepared(config: RunConfig, folder: RunFolder) -> str:
    """The digest of the training data. Raises RunError where they were prepared otherwise."""
    report = read_json(folder.data_report, "sumzero prepare RUN.toml")
    try:
        then, digest_ = dict(report["settings"]), str(report["splits"]["train"]["digest"])
    except (KeyError, TypeError, ValueError):
        raise RunError(
            f"{folder.data_report}: not of this version, or damaged; run `sumzero prepare RUN.toml`"
        ) from None
    now = settings_of(config)
    changed = [key for key in now | then if now.get(key) != then.get(key)]
    if changed:
        # Other settings bring other instructions: told only where their files alone have changed.
        named = sorted({*changed} - {"instructions"}) or ["instructions"]
        names = ", ".join(key if key in _NOT_OF_DATA else f"data.{key}" for key in named)
        raise RunError(
            f"{folder.data}: prepared with other settings ({names}); run `sumzero prepare`"
        )
    return digest_


def validation_digest(config: RunConfig, folder: RunFolder) -> str | None:
    """The digest of the validation data; None where there is none."""
    if not config.data.validation:
        return None
    report = read_json(folder.data_report, "sumzero prepare RUN.toml")
    return str(report["splits"]["validation"]["digest"])


def store_file(folder: RunFolder, split: str) -> Path:
    """Where the store of a split lies."""
    return folder.data / f"{split}.arrow"


def prepare(
    config: RunConfig,
    folder: RunFolder,
    renderer: PromptRenderer,
    hidden_size: int,
    processes: int | None = None,
) -> dict[str, Any]:
    """Builds the stores of the train and validation splits and `data_report.json`.

    `hidden_size` is the model's, for the plan that the report tells of. `processes` tokenise; by
    default one a core. The test split is read too, and the smaller splits before the training data,
    so that their faults show early. Raises DataError where a source has no usable row; nothing then
    replaces an earlier store.
    """
    data = config.data
    if not data.train:
        raise DataError("data.train: no training data; set data.train.path")
    if processes is not None and processes < 1:
        raise ConfigError("--processes: must be at least 1")
    folder.data.mkdir(parents=True, exist_ok=True)
    digests = {
        split: _digest(data, getattr(data, split), renderer)
        for split in _SPLITS
        if getattr(data, split)
    }
    for split, digest_ in reversed(digests.items()):
        if _counts(folder, split).get("digest") == digest_:
            logger.info("%s data is prepared already", split)
            continue
        folder.data_report.unlink(missing_ok=True)  # what follows is not what it speaks of
        tally = Tally()
        if split == "test":
            _read_through(data.test, folder, tally)
        else:
            workers = processes or len(os.sched_getaffinity(0))
            _build(split, data, folder, renderer, tally, digest_, workers)
        write_json(_counts_file(folder, split), {"digest": digest_, **tally.summary()})
        shutil.rmtree(_work(folder, split), ignore_errors=True)
    splits = {split: _counts(folder, split) for split in digests}
    report: dict[str, Any] = {"settings": settings_of(config), "splits": splits}
    stores = {split: TokenStore(store_file(folder, split)) for split in splits if split != "test"}
    for split, store in stores.items():
        splits[split] |= describe(store, splits[split]["sources"])
    hashes = {split: store.hash for split, store in stores.items()}
    if "test" in splits:
        hashes["test"] = _test_hashes(_result_file(folder, "test"))
    report["leakage"] = leakage(hashes)
    report["plan"] = describe_plan(Epochs(stores["train"], config, hidden_size))
    with atomic_file(folder.rejected) as out:
        for split in splits:
            with _rejects_file(folder, split).open(encoding="utf-8") as rows:
                shutil.copyfileobj(rows, out)
    write_json(folder.data_report, report)
    return report


def _rejects_file(folder: RunFolder, split: str) -> Path:
    return folder.data / f"{split}.rejected.jsonl"


def _result_file(folder: RunFolder, split: str) -> Path:
    """What a split's preparation leaves; of the test split, hashes of its documents."""
    return folder.data / "test.hashes.npy" if split == "test" else store_file(folder, split)


def _counts_file(folder: RunFolder, split: str) -> Path:
    """The digest and counts of a split; written last, it says that the split is prepared."""
    return folder.data / f"{split}.json"


def _counts(folder: RunFolder, split: str) -> dict[str, Any]:
    """What `_counts_file` holds; nothing where the split is not prepared, or it is damaged."""
    found: Any = {}
    if all(file(folder, split).is_file() for file in (_rejects_file, _result_file)):
        with suppress(RunError):
            found = read_json(_counts_file(folder, split), "sumzero prepare RUN.toml")
    return found if isinstance(found, dict) else {}


def _work(folder: RunFolder, split: str) -> Path:
    """Where the parts of a split lie until its store is whole."""
    return folder.data / f"{split}.parts"


def _read_through(sources: tuple[Source, ...], folder: RunFolder, tally: Tally) -> None:
    """Reads the test split: its rejects, and hashes of its documents."""
    hashes = []
    source_of: dict[str, Source] = {}
    with atomic_file(_rejects_file(folder, "test")) as out:
        for source in sources:
            found = array("Q")
            for row in first_of_each_id(source, need_targets=True, seen=set()):
                if isinstance(row, Reject):
                    tally.reject([row], out)
                elif source_of.setdefault(row.id, source) is not source:
                    raise DataError(
                        f"{source.path}:{row.line}: id {row.id!r} is also in "
                        f"{source_of[row.id].path}; results are told apart by it"
                    )
                else:
                    found.append(hash_of(row.document))
            tally.close(source, len(found))
            hashes.append(np.frombuffer(found, dtype=np.uint64))
        _counts_file(folder, "test").unlink(missing_ok=True)
    np.save(_result_file(folder, "test"), np.concatenate(hashes))


def _test_hashes(file: Path) -> NDArray[np.uint64]:
    try:
        found: NDArray[np.uint64] = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):
        raise RunError(f"{file}: damaged; remove it and run `sumzero prepare RUN.toml`") from None
    return found


def _build(
    split: str,
    data: Data,
    folder: RunFolder,
    renderer: PromptRenderer,
    tally: Tally,
    digest_: str,
    processes: int,
) -> None:
    """Tokenises and joins the sources of a split into its store."""
    work = _work(folder, split) / digest_[:16]
    for stale in work.parent.glob("*"):
        if stale != work:
            shutil.rmtree(stale, ignore_errors=True)
    parts: list[Parts] = []
    kept: list[NDArray[np.bool_]] = []
    with atomic_file(_rejects_file(folder, split)) as rejected:
        for number, source in enumerate(getattr(data, split)):
            tokeniser = Tokeniser(source, data, renderer)
            of_source = Parts(tokenise(tokeniser, work / str(number), split, processes))
            tally.reject(of_source.rejects(), rejected)
            kept.append(np.ones(len(of_source), dtype=np.bool_))
            for row, reject in repeats(of_source, duplicates=data.duplicates == "drop"):
                kept[-1][row] = False
                tally.reject([reject], rejected)
            tally.close(source, int(kept[-1].sum()))
            parts.append(of_source)
        _counts_file(folder, split).unlink(missing_ok=True)
    ways = number_ways(parts)
    store = store_file(folder, split)
    partial = store.with_suffix(".partial")
    schema = SCHEMA.with_metadata({"template": _template(renderer, ways).to_json()})
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            for number, (of_source, rows) in enumerate(zip(parts, kept, strict=True)):
                for batch in examples(of_source, join(of_source, rows), number, ways):
                    out.write_batch(batch)
        partial.replace(store)
    finally:
        partial.unlink(missing_ok=True)


def _template(renderer: PromptRenderer, ways: dict[Ways, int]) -> Template:
    return Template(
        renderer.head_ids,
        renderer.tail_ids,
        [[renderer.ask_parts(text) for text in way] for way in ways],
        renderer.truncation.rule,
    )


def _digest(data: Data, sources: tuple[Source, ...], renderer: PromptRenderer) -> str:
    """A hash of all that a split's store depends on.

    Raises DataError where a file is missing, ConfigError where a source cannot be asked for.
    """
    state = hashlib.sha256(json.dumps([_FORMAT, _of_data(data)]).encode())
    for source in sources:
        asked = [asdict(one) for one in sets_of([source], data)]
        state.update(json.dumps([_of_source(source), asked]).encode())
        state.update(digest(source).encode())
    around = [renderer.head_ids, renderer.tail_ids, renderer.encode_targets(["."])]
    state.update(json.dumps(around).encode())
    state.update(renderer.tokenizer.backend_tokenizer.to_str().encode())
    return state.hexdigest()
