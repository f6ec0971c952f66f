"""What a DeepSpeed engine saves and loads: shards of the optimizer, weights, counters.

The engine is handed in by `train/engine.py`; nothing here imports DeepSpeed.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch

from sumzero.errors import RunError
from sumzero.train.layout import UNIVERSAL
from sumzero.train.manifest import read_state
from sumzero.train.shards import ShardFiles


def trained(engine: Any) -> dict[str, Any]:
    """What an engine trains: the number of parameters and a digest of their names and shapes."""
    return _described(engine._get_zero_param_shapes())


def save(engine: Any, folder: Path, tag: str, *, later: bool) -> ShardFiles:
    """Every rank writes its shard to `folder`/`tag`; all ranks call it together.

    With `later` the content is copied to host memory, and written once `start` is called of what is
    returned. Frozen parameters are left out: they are those of the model's files.
    """
    files = ShardFiles(folder / tag, later=later)
    # It would put copies of its conversion script into the folder of checkpoints.
    engine._copy_recovery_script = lambda path: None
    before, engine.checkpoint_engine = engine.checkpoint_engine, files
    try:
        engine.save_checkpoint(
            str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=_has_frozen(engine)
        )
    finally:
        engine.checkpoint_engine = before
    rank = torch.distributed.get_rank()
    files.add_folder(folder / tag / "offloaded_tensors" / f"rank{rank:02d}")
    return files


def load(engine: Any, folder: Path, tag: str) -> None:
    """Restores an engine from `folder`/`tag`, or from its converted form where it is set to.

    Raises RunError where nothing is loaded, or other parameters than those that are trained.
    """
    universal = engine.load_universal_checkpoint()
    where = folder / UNIVERSAL if universal else folder
    saved, now = read_state(folder, tag)["checkpoint"]["trained"], trained(engine)
    if saved != now:
        raise RunError(
            f"{folder / tag}: its {saved['parameters']} trained parameters have other names or "
            f"shapes than the {now['parameters']} of the model; bring back the model it began from"
        )
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in engine.optimizer.param_groups
    ]
    # Frozen parameters are not in it; that no other is missing is seen below.
    path, found = engine.load_checkpoint(
        str(where), tag=tag, load_module_strict=not _has_frozen(engine)
    )
    if path is None:
        raise RunError(f"{where / tag}: the checkpoint cannot be loaded")
    if _described(found["param_shapes"]) != now:
        raise RunError(f"{where / tag}: holds other parameters than those that are trained")
    if universal:
        # Stage 3 gives all groups the settings of the first, its weight decay among them, and one
        # counter of steps, which every group then advances.
        for group, settings in zip(engine.optimizer.param_groups, groups, strict=True):
            group.update(settings)
        for values in engine.optimizer.optimizer.state.values():
            if torch.is_tensor(values.get("step")):
                values["step"] = values["step"].clone()


def _has_frozen(engine: Any) -> bool:
    return any(not parameter.requires_grad for parameter in engine.module.parameters())


def _described(shapes: list[dict[str, Any]]) -> dict[str, Any]:
    names = [f"{name} {[*shape]}" for group in shapes for name, shape in group.items()]
    digest = hashlib.sha256("\n".join(sorted(names)).encode())
    return {"parameters": len(names), "digest": digest.hexdigest()}
