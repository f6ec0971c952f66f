"""Adapters and the base that they were trained on: together they are one model.

`sumzero export --adapter` writes a digest of the base's files beside the adapters. `open_adapter`
compares it, and looks whether the adapters change anything at all.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open

from sumzero.errors import RunError
from sumzero.loading import local_folder
from sumzero.log import logger
from sumzero.runfolder import read_json
from sumzero.weights_digest import weights_digest

ABOUT = "export.json"  # what a folder was made of
BASE_DIGEST = "base_digest"  # its key for the weights_digest of the base
_CONFIG = "adapter_config.json"
_WHEREABOUTS = ("base_model_name_or_path", "revision")  # its keys that may change with the place


def open_adapter(
    folder: Path, revision: str | None, digest: Callable[[Path], str] = weights_digest
) -> Path:
    """The folder of the base of adapters in peft's format; `revision` is that of a Hub model.

    Raises RunError where the base's weights are not those trained on, or all adapters are zero;
    DataError where there is no base. `digest` is `weights_digest`, or that with a memory: it reads
    all of the base's files.
    """
    about = read_json(folder / _CONFIG, "sumzero export --adapter")
    base = local_folder(str(about["base_model_name_or_path"]), revision)
    _check_effect(folder)
    promised = None
    if (folder / ABOUT).is_file():
        promised = read_json(folder / ABOUT, "sumzero export --adapter").get(BASE_DIGEST)
    if promised is None:
        logger.warning("%s: does not say which weights it was trained on; not checked", folder)
    elif digest(base) != promised:
        raise RunError(
            f"{folder}: the adapters were trained on other weights than those of {base}; name the "
            "base that was trained on in adapter_config.json, or run `sumzero export --adapter` "
            "again"
        )
    return base


def adapter_digest(folder: Path) -> str:
    """A hash over adapters and their settings; where their base lies does not count."""
    about = read_json(folder / _CONFIG, "sumzero export --adapter")
    settings = {key: value for key, value in about.items() if key not in _WHEREABOUTS}
    parts = [weights_digest(folder), json.dumps(settings, sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _check_effect(folder: Path) -> None:
    """Raises RunError where B is zero in all of the products B A, as before training."""
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise RunError(f"{file} is missing; run `sumzero export --adapter` again")
    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if "lora_B" in name]  # noqa: SIM118
        if not any(bool(torch.count_nonzero(opened.get_tensor(name))) for name in names):
            raise RunError(f"{folder}: the adapters change nothing: all of their B are zero")
