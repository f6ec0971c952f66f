"""Records -> the token stores of a run: `sumzero prepare`, on a CPU, before any GPU is held.

    blocks of rows --workers--> parts --hashes, sorted--> store: an example a row, a document once

Memory is fixed but for three arrays of 8 bytes a record. A stopped preparation goes on from its
parts; a store whose content and settings have not changed is kept. Where prompt and target exceed
the limit only the document is cut, or the row is rejected with its reason: read = kept + rejected.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sumzero.config import Data, RunConfig, Source
from sumzero.errors import DataError, RunError
from sumzero.formats import Block
from sumzero.instructions import instruction_set
from sumzero.log import logger, progress
from sumzero.prompt import PromptRenderer
from sumzero.readers import blocks, digest
from sumzero.records import Reject, read
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, atomic_file, read_json, write_json
from sumzero.train.data_report import describe, describe_plan, leakage
from sumzero.train.epoch import Epochs
from sumzero.train.joins import Parts, examples, join, number_ways, repeats
from sumzero.train.parts import Tokeniser, Ways, hash_of
from sumzero.train.store import SCHEMA, Template, TokenStore
from sumzero.train.tally import Tally

_BLOCKS = 4  # of a part
_FORMAT = 2  # of the stores
_SPLITS = ("train", "validation", "test")
_LATER = ("share_documents",)  # settings that no store depends on
_tokeniser: Tokeniser  # of a worker process


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What the stores of a run depend on among its settings."""
    values = _of_data(config.data)
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
    now = settings_of(config)
    changed = [
        key for key in now | report["settings"] if now.get(key) != report["settings"].get(key)
    ]
    if changed:
        names = ", ".join(f"data.{key}" for key in sorted(changed))
        raise RunError(
            f"{folder.data}: prepared with other settings ({names}); run `sumzero prepare`"
        )
    return str(report["splits"]["train"]["digest"])


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
    default one a core. The test split is read too, so that its faults show
    before training. Raises DataError where a source has no usable row; nothing then replaces an
    earlier store.
    """
    data = config.data
    if not data.train:
        raise DataError("data.train: no training data; set data.train.path")
    folder.data.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = {}
    if folder.data_report.is_file():
        before = read_json(folder.data_report, "sumzero prepare")["splits"]
    splits: dict[str, Any] = {}
    for split in _SPLITS:
        sources: tuple[Source, ...] = getattr(data, split)
        if not sources:
            continue
        digest_ = _digest(data, sources, renderer)
        files = [_rejects_file(folder, split), _result_file(folder, split)]
        if before.get(split, {}).get("digest") == digest_ and all(f.is_file() for f in files):
            logger.info("%s data is prepared already", split)
            splits[split] = before[split]
            continue
        folder.data_report.unlink(missing_ok=True)  # what follows is not what it speaks of
        tally = Tally()
        if split == "test":
            _read_through(sources, folder, tally)
        else:
            workers = processes or len(os.sched_getaffinity(0))
            _build(split, sources, data, folder, renderer, tally, digest_, workers)
        splits[split] = {"digest": digest_, **tally.summary()}
    report = {"settings": settings_of(config), "splits": splits}
    stores = {split: TokenStore(store_file(folder, split)) for split in splits if split != "test"}
    for split, store in stores.items():
        splits[split].update(describe(store))
    hashes = {split: store.hash for split, store in stores.items()}
    if "test" in splits:
        hashes["test"] = np.load(_result_file(folder, "test"))
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


def _read_through(sources: tuple[Source, ...], folder: RunFolder, tally: Tally) -> None:
    """Reads the test split: its rejects, and hashes of its documents."""
    hashes = []
    with atomic_file(_rejects_file(folder, "test")) as out:
        for source in sources:
            found = array("Q")
            for row in read(source, need_targets=True):
                if isinstance(row, Reject):
                    tally.reject([row], out)
                else:
                    found.append(hash_of(row.document))
            tally.close(source, len(found))
            hashes.append(np.frombuffer(found, dtype=np.uint64))
    np.save(_result_file(folder, "test"), np.concatenate(hashes))


def _build(
    split: str,
    sources: tuple[Source, ...],
    data: Data,
    folder: RunFolder,
    renderer: PromptRenderer,
    tally: Tally,
    digest_: str,
    processes: int,
) -> None:
    """Tokenises and joins the sources of a split into its store."""
    work = folder.data / f"{split}.parts" / digest_[:16]
    for stale in work.parent.glob("*"):
        if stale != work:
            shutil.rmtree(stale)
    parts = []
    for number, source in enumerate(sources):
        instruction_set(source, data, source.language)  # its faults are not the rows'
        here = work / str(number)
        here.mkdir(parents=True, exist_ok=True)
        tokeniser = Tokeniser(source, data, renderer)
        parts.append(Parts(list(_tokenised(tokeniser, here, split, processes))))
    ways = number_ways(parts)
    store = store_file(folder, split)
    partial = store.with_suffix(".partial")
    schema = SCHEMA.with_metadata({"template": _template(renderer, ways).to_json()})
    try:
        with (
            atomic_file(_rejects_file(folder, split)) as rejected,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as out,
        ):
            for number, (source, of_source) in enumerate(zip(sources, parts, strict=True)):
                kept = np.ones(len(of_source), dtype=np.bool_)
                tally.reject(of_source.rejects(), rejected)
                for row, reject in repeats(of_source, duplicates=data.duplicates == "drop"):
                    kept[row] = False
                    tally.reject([reject], rejected)
                tally.close(source, int(kept.sum()))
                for batch in examples(of_source, join(of_source, kept), number, ways):
                    out.write_batch(batch)
        partial.replace(store)
    finally:
        partial.unlink(missing_ok=True)
    del parts
    shutil.rmtree(work.parent)


def _tokenised(tokeniser: Tokeniser, work: Path, split: str, processes: int) -> Iterator[Path]:
    """The files of a source's parts, in order, as they are made; those there already are kept."""
    pieces = iter(blocks(tokeniser.source))
    groups = iter(lambda: list(islice(pieces, _BLOCKS)), [])
    jobs = ((group, work / f"{number:07}.part") for number, group in enumerate(groups))
    with progress(iter(()), f"tokenising {split}", unit=" blocks") as bar:
        first = list(islice(jobs, 2))
        if len(first) < 2 or processes == 1:  # not worth a process
            for group, file in chain(first, jobs):
                if not file.is_file():
                    tokeniser(group, file)
                bar.update(len(group))
                yield file
            return
        try:
            with ProcessPoolExecutor(
                processes, get_context("spawn"), _set_tokeniser, (tokeniser,)
            ) as pool:
                pending: deque[tuple[Future[None] | None, int, Path]] = deque()
                for group, file in chain(first, jobs):
                    made = None if file.is_file() else pool.submit(_tokenise, group, file)
                    pending.append((made, len(group), file))
                    while len(pending) > 2 * processes or (pending and pending[0][0] is None):
                        yield _done(*pending.popleft(), bar)
                while pending:
                    yield _done(*pending.popleft(), bar)
        except BrokenProcessPool:
            raise RunError(
                "a process that tokenised was killed, perhaps for want of memory; run `sumzero "
                "prepare` again with fewer --processes: it goes on from what is done"
            ) from None


def _done(made: Future[None] | None, num_blocks: int, file: Path, bar: Any) -> Path:
    if made is not None:
        made.result()
    bar.update(num_blocks)
    return file


def _set_tokeniser(tokeniser: Tokeniser) -> None:
    global _tokeniser
    _tokeniser = tokeniser


def _tokenise(group: list[Block], file: Path) -> None:
    _tokeniser(group, file)


def _template(renderer: PromptRenderer, ways: dict[Ways, int]) -> Template:
    return Template(
        renderer.head_ids,
        renderer.tail_ids,
        [[renderer.ask_parts(text) for text in way] for way in ways],
        renderer.truncation.rule,
    )


def _digest(data: Data, sources: tuple[Source, ...], renderer: PromptRenderer) -> str:
    """A hash of all that a split's store depends on. Raises DataError where a file is missing."""
    state = hashlib.sha256(json.dumps([_FORMAT, _of_data(data)]).encode())
    for source in sources:
        asked = asdict(instruction_set(source, data, source.language))
        state.update(json.dumps([_of_source(source), asked]).encode())
        state.update(digest(source).encode())
    state.update(json.dumps([renderer.head_ids, renderer.tail_ids, renderer.end_ids]).encode())
    state.update(renderer.tokenizer.backend_tokenizer.to_str().encode())
    return state.hexdigest()
