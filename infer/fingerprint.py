"""What a generation was made by and from: one that is made otherwise is another one."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sumzero.adapter import weights_digest as weights_digest
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


def _digest(parts: Iterable[str]) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\0")
    return state.hexdigest()
