"""A checkpoint in DeepSpeed's universal form, which any number of ranks can load.

    checkpoints/universal/step-000400/   one folder a parameter: weights and optimizer state
    checkpoints/universal/source.json    of which checkpoint, by its manifest

It is made by rank 0 on a resume where the shards do not fit, or beforehand by `sumzero convert`,
appears whole or not at all, and goes with the next save. ZeRO's stages cannot be switched.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from sumzero.errors import RunError
from sumzero.log import logger
from sumzero.runfolder import atomic_folder, read_json, write_json
from sumzero.train.engine import convert
from sumzero.train.layout import UNIVERSAL

_SOURCE = "source.json"


def needs_conversion(state: dict[str, Any], layout: dict[str, Any], where: Path) -> bool:
    """Whether a checkpoint's shards are split otherwise than `layout`.

    Raises RunError where it then cannot be loaded at all.
    """
    saved = state["checkpoint"]["layout"]
    if saved == layout:
        return False
    check_convertible(state, where)
    if layout["optimizer"] == "NVMe":
        raise RunError(
            f"{where}: DeepSpeed cannot load a converted checkpoint into an optimizer on NVMe; "
            f"train on {saved['ranks']} ranks with the preset of then, or with another preset"
        )
    return True


def check_convertible(state: dict[str, Any], where: Path) -> None:
    """Raises RunError where a checkpoint can be loaded only as it was saved."""
    saved = state["checkpoint"]["layout"]
    if saved["optimizer"] == "NVMe":
        raise RunError(
            f"{where}: its optimizer lies on NVMe, which cannot be converted; train on "
            f"{saved['ranks']} ranks with the preset of then"
        )


def is_converted(folder: Path, name: str, state: dict[str, Any]) -> bool:
    """Whether the universal form of just this checkpoint is there."""
    source = folder / UNIVERSAL / _SOURCE
    return source.is_file() and read_json(source, "sumzero convert") == {
        "name": name,
        "files": state["checkpoint"]["files"],
    }


def make(folder: Path, name: str, state: dict[str, Any], workers: int = 1) -> Path:
    """Makes the universal form of a whole checkpoint; returns its folder."""
    if not is_converted(folder, name, state):
        saved = state["checkpoint"]["layout"]
        logger.info(
            "%s: converting %s of %d ranks to the universal form; of a large model it is quicker "
            "done beforehand: sumzero convert",
            folder,
            name,
            saved["ranks"],
        )
        with atomic_folder(folder / UNIVERSAL) as partial:
            convert(folder / name, partial / name, workers)
            write_json(partial / _SOURCE, {"name": name, "files": state["checkpoint"]["files"]})
            os.sync()  # thousands of small files, before the folder gets its name
    return folder / UNIVERSAL / name


def remove(folder: Path) -> None:
    """Removes the universal form, which belongs to an older checkpoint."""
    shutil.rmtree(folder / UNIVERSAL, ignore_errors=True)
