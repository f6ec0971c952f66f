"""Two real ranks of ZeRO-3 whose micro-steps have unequal supervised counts, some of them none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .tiny_models import tiny_model

CASES = [
    (kind, case)
    for kind in ("llama", "qwen3")  # an untied and a tied head
    for case in (
        "plain",
        "checkpointed",
        "frozen head",
        "lora",
        "lora dropout",
        "lora dropout checkpointed",
    )
] + [("qwen3_moe", "plain"), ("phi", "plain"), ("phi", "checkpointed")]


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """By "kind, case: parameter", the gradient's relative distance from one process's."""
    folder = tmp_path_factory.mktemp("unequal_ranks")
    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}  # splits every parameter
    (folder / "split_all.json").write_text(json.dumps({"zero_optimization": zero}))
    variants = {}
    for kind, case in CASES:
        if not (folder / kind).is_dir():
            tiny_model(kind, tie_word_embeddings=kind == "qwen3").save_pretrained(folder / kind)
        variants[f"{kind}, {case}"] = str(folder / kind)
    out = folder / "errors.json"
    script = Path(__file__).with_name("unequal_ranks.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(script, out, folder / "split_all.json"),
        ],
        env={
            **os.environ,
            **{"VARIANTS": json.dumps(variants), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_gradients_are_those_of_one_process(errors, kind, case):
    found = {name: x for name, x in errors.items() if name.startswith(f"{kind}, {case}: ")}
    assert len(found) > 10
    assert all(error <= 2e-6 for error in found.values()), max(found, key=found.get)
