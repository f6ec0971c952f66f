"""Small trainings on two ranks, of several kinds, in one launch; and run folders of them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from sumzero.config import Lora, RunConfig
from sumzero.runfolder import RunFolder, read_json, write_json
from sumzero.train.examples import check_prepared
from sumzero.train.identity import identity

from .tiny_models import tiny_model

ROWS = [{"id": i, "document": f"The cat {i} sat.", "target": f"Cat {i}."} for i in range(4)]
# name: model, stage, dtype, adapters
CASES = {
    "tied": ("qwen3", 3, "float32", None),
    "tied bf16": ("qwen3", 2, "bfloat16", None),
    "untied": ("llama", 1, "float32", None),
    "experts bf16": ("qwen3_moe", 3, "bfloat16", None),
    "experts": ("qwen3_moe", 3, "float32", None),
    "lora": ("llama", 3, "float32", {"rank": 3, "dropout": 0.1}),
    "lora bf16": ("qwen3", 3, "bfloat16", {"rank": 4, "rslora": True}),
    "lora stage 2": ("llama", 2, "float32", {"rank": 2, "targets": ["q_proj", "1.mlp.up_proj"]}),
}


@dataclass(frozen=True)
class Case:
    """A training's settings, its run folder with the checkpoint, and the live float32 weights."""

    config: RunConfig
    folder: RunFolder
    live: dict


def train(root, tokenizer, cases, environment=None):
    """Trains all on two ranks; what it leaves is in root/NAME."""
    settings = []
    for name, (kind, stage, dtype, lora) in cases.items():
        model = root / "models" / kind
        if not model.is_dir():
            tiny_model(kind, vocab_size=len(tokenizer)).save_pretrained(model)
            tokenizer.save_pretrained(model)
        values = {"stage": stage, "dtype": dtype, "lora": lora}
        settings.append({"out": str(root / name), "model": str(model), **values})
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(Path(__file__).with_name("trained_on_ranks.py"), json.dumps(settings)),
        ],
        env={
            **os.environ,
            **{"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            **(environment or {}),
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def as_run(root, prepared, name, cases):
    """The run folder that a training of these settings would have left."""
    from safetensors.torch import load_file

    kind, stage, dtype, lora = cases[name]
    made = prepared(ROWS, model=root / "models" / kind)
    config = replace(
        made.config,
        model=replace(made.config.model, dtype=dtype),
        train=replace(made.config.train, lora=Lora(**lora) if lora else None),
    )
    step = made.folder.checkpoints / "step-000002"
    step.parent.mkdir(parents=True)
    step.symlink_to(root / name / "step-000002")
    # The data are prepared for a run only now: its checkpoint is told whose it is.
    state = read_json(step / "sumzero.json", "a training")
    state |= identity(config, check_prepared(config, made.folder), "", stage)
    write_json(step / "sumzero.json", state)
    return Case(config, made.folder, load_file(root / name / "live.safetensors"))
