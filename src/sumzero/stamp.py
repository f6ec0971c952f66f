"""Text files of ours that users may edit: their last line says what they were when written.

A file that is not as it was is the user's then, and stays.
"""

import hashlib
import re
from pathlib import Path

_SAID = "<!-- sumzero wrote this: {}; changed, it is never overwritten -->"
_STAMP = re.compile(_SAID.format("([0-9a-f]{16})"))


def stamped(text: str) -> str:
    """The text with a last line by which `is_ours` knows it; it shows in no rendered Markdown."""
    body = text.rstrip("\n") + "\n"
    return f"{body}\n{_SAID.format(_digest(body))}\n"


def is_ours(file: Path) -> bool:
    """Whether a file was written by us, and by nobody else since. White space at ends is no change.

    Raises FileNotFoundError where there is none.
    """
    text = file.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").rstrip()
    body, _, last = text.rpartition("\n")
    found = _STAMP.fullmatch(last)
    return found is not None and found[1] == _digest(body.rstrip("\n") + "\n")


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "replace")).hexdigest()[:16]
