"""What a generation was made by and from: one that is made otherwise is another one."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sumzero.errors import DataError
from sumzero.records import Record


def fingerprint(made_by: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a generation's folder."""
    return _digest([json.dumps(made_by, sort_keys=True)])[:16]


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


def _digest(parts: Iterable[str]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\0")
    return state.hexdigest()
