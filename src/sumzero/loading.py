"""Finds a model's files and loads its tokenizer; nothing that a model brings along is run."""

from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sumzero.errors import DataError


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or Hub name; no remote code is run.

    Raises DataError where there is none, it is not a fast one, or it has no chat template.
    """
    folder = Path(path)
    if folder.is_dir() and not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")
    ):
        raise DataError(f"{path}: the model folder has no tokenizer (tokenizer.json is missing)")
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise DataError(f"{path}: no such model folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=False, use_fast=True
        )
    except Exception as error:  # a damaged file can raise anything
        raise DataError(f"{path}: no tokenizer can be loaded: {_first_line(error)}") from None
    if not tokenizer.is_fast:
        raise DataError(f"{path}: the tokenizer has no tokenizer.json (a fast tokenizer is needed)")
    if not tokenizer.chat_template:
        raise DataError(
            f"{path}: the tokenizer has no chat template; put a chat_template.jinja into the "
            "folder, or take the model's instruct version"
        )
    return tokenizer


def local_folder(path: str, revision: str | None) -> Path:
    """The local folder of a model: itself, or the Hub's files. Raises DataError without them."""
    if Path(path).is_dir():
        return Path(path)
    try:
        patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no model can be fetched: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
