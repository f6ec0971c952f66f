"""From the launcher to vLLM: what two ranks train under ZeRO-3 is what is exported."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sumzero.pipeline import prepare
from sumzero.probe import greedy
from sumzero.runfile import load
from sumzero.runfolder import RunFolder
from sumzero.train.export import export

from .consolidated import consolidated_weights
from .tiny_models import tiny_model

SAME = "transformers and vLLM give the same 32 greedy tokens"


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("export")
    rows = [{"id": i, "document": f"The cat {i} sat.", "target": f"Cat {i}."} for i in range(16)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind in ("qwen3", "llama"):  # a tied and an untied head; vLLM's heads have 32 at least
        model = tiny_model(kind, vocab_size=len(tokenizer), head_dim=32)
        model.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    file = folder / "run.toml"
    file.write_text(f"""
        runs = "{folder}/runs"
        [model]
        path = "{folder}/llama"
        dtype = "float32"
        [data]
        train.path = "{folder}/train.jsonl"
        max_length = 128
        instruction = "Sum up."
        [train]
        bins_per_step = 2
        epochs = 20
        max_steps = 4
        lr = 2e-2
        [generate]
        cpu_kv_cache_gib = 0.25
    """)
    return file


@pytest.fixture(scope="module")
def trained(run_file, launch):
    def of(name, *overrides):
        overrides = [f"name={name}", *overrides]
        config = load(run_file, overrides)
        prepare(config)
        launch(2, run_file, *overrides)
        return RunFolder.of(config)

    return of


def _export(folder, *options):
    done = subprocess.run(
        [sys.executable, "-m", "sumzero.cli", "export", str(folder.root), *options],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done


def _prompt(folder):
    return json.loads((folder / "contract.json").read_text())["probes"][0]["ids"]


def test_a_model_trained_whole_is_exported_and_continues_alike_in_vllm(trained, run_file):
    base = run_file.parent / "qwen3"
    folder = trained("whole", f"model.path={base}")
    done = _export(folder)
    assert done.stdout == f"{folder.export}\n"
    assert SAME in done.stderr
    found = load_file(folder.export / "model.safetensors")
    want = consolidated_weights(folder.checkpoints, "step-000004")  # by DeepSpeed's own reader
    assert torch.equal(want.pop("lm_head.weight"), want["model.embed_tokens.weight"])
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)
    begun = load_file(base / "model.safetensors")
    assert not any(torch.equal(found[name], begun[name]) for name in begun)


def test_adapters_are_exported_alone_and_merged_and_continue_alike_in_vllm(trained):
    folder = trained("lora", "train.lora.rank=4", "train.lora.dropout=0.1", "train.lr=0.3")
    done = _export(folder, "--adapter")
    assert done.stdout == f"{folder.adapter}\n"
    assert SAME in done.stderr
    config = load(folder.config)
    export(config, form="merge")

    prompt = _prompt(folder.adapter)
    base = AutoModelForCausalLM.from_pretrained(config.model.path).eval()
    of_base = greedy(base, prompt, 32)
    of_adapter = greedy(PeftModel.from_pretrained(base, folder.adapter).eval(), prompt, 32)
    of_merged = greedy(AutoModelForCausalLM.from_pretrained(folder.export).eval(), prompt, 32)
    assert of_adapter == of_merged != of_base
    weights = load_file(folder.adapter / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 2  # layers, linear ones in each, matrices
    assert all(value.count_nonzero() for value in weights.values())
