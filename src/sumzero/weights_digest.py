"""What tells the weights of one model folder from those of another."""

import hashlib
from pathlib import Path

from sumzero.errors import DataError


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
