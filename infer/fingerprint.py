"""What a generation was made by and from: one that is made otherwise is another one."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sumzero.records import Record


def fingerprint(made_by: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a generation's folder."""
    return digest_of([json.dumps(made_by, sort_keys=True)])[:16]


class InputDigest:
    """What `input_digest` returns, of records that come one by one."""

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def add(self, record: Record, text: str) -> None:
        """Takes a record and what it is asked."""
        about = [record.id, record.document, record.instruction, record.lead, record.metadata, text]
        self._state.update(json.dumps(about).encode() + b"\0")

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._state.hexdigest()


def input_digest(asked: Iterable[tuple[Record, str]]) -> str:
    """A hash over records, and what each is asked, that decides what is generated.

    The text is empty where nothing is asked. Records are taken one by one.
    """
    digest = InputDigest()
    for record, text in asked:
        digest.add(record, text)
    return digest.hexdigest()


def digest_of(parts: Iterable[str]) -> str:
    """SHA-256 over texts, as 64 hexadecimal digits."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() + b"\0")
    return state.hexdigest()
