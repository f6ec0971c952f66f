"""Model folders that are damaged, incomplete or of two models: one line, and nothing is written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sumzero.errors import DataError
from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.train.model import load_model

from .tiny_models import tiny_model

INDEX = "model.safetensors.index.json"


def _truncate(folder):
    file = max(folder.glob("model*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def _delete_a_shard(folder):
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _name_a_shard_that_is_not_there(folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "model-00009-of-00009.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def _empty_the_index(folder):
    (folder / INDEX).write_text("[]")


def _only_pickles(folder):
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def _set(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def _other_width(folder):
    _set(folder, intermediate_size=128)


def _other_depth(folder):
    _set(folder, num_hidden_layers=3)


def _other_model(folder):
    _set(folder, model_type="llama", architectures=["LlamaForCausalLM"], attention_bias=True)


FAULTS = {
    _truncate: r"/model-0000(\d)-of-0000\1\.safetensors: damaged, or no safetensors file: ",
    _delete_a_shard: rf": no model-00002-of-0000\d\.safetensors, which {INDEX} names$",
    _name_a_shard_that_is_not_there: rf": no model-00009-of-00009\.safetensors, which {INDEX} n",
    _empty_the_index: rf"{INDEX}: not an index of weight files: ",
    _only_pickles: r": has neither model\.safetensors nor .* from safetensors files only$",
    _other_width: r": 6 weights have other shapes than config\.json says: model\.layers\.0\.mlp\."
    r"down_proj\.weight is \[32, 64\] in the files and \[32, 128\] by config\.json$",
    _other_depth: r": no model can be loaded: .*num_hidden_layers",
    _other_model: r": \d+ missing keys: model\.layers\.0\.self_attn\.k_proj\.bias",
}


@pytest.mark.parametrize(("spoil", "message"), FAULTS.items(), ids=[f.__name__ for f in FAULTS])
def test_a_bad_folder_is_refused_in_one_line(tmp_path, spoil, message):
    tiny_model("qwen3").save_pretrained(tmp_path, max_shard_size="40KB")
    spoil(tmp_path)
    with pytest.raises(DataError, match=rf"^{tmp_path}.*{message}") as refused:
        load_model(str(tmp_path), torch.float32)
    assert "\n" not in str(refused.value)


def test_an_expert_whose_tensor_is_missing_is_refused(tmp_path):
    tiny_model("qwen3_moe").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.experts.2.gate_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"cannot be made into the model's.*one may be missing"):
        load_model(str(tmp_path), torch.float32)


@pytest.mark.parametrize("spoil", [_other_width, _truncate])
def test_training_from_it_ends_with_code_2_and_writes_nothing(tmp_path, model_folder, forks, spoil):
    rows = [{"id": n, "document": f"A cat sat {n}.", "target": "A cat."} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(model_folder, tmp_path / "model")
    run_file = tmp_path / "run.toml"
    run_file.write_text(f"""
        runs = "{tmp_path}/runs"
        model.path = "{tmp_path}/model"
        data.train.path = "{tmp_path}/rows.jsonl"
        data.max_length = 64
    """)
    prepare(load(str(run_file), []))
    spoil(tmp_path / "model")
    before = _all_files(tmp_path)
    done = forks.train(run_file, expect=2)
    said = [line for line in done["log"].splitlines() if line.startswith("sumzero: ")]
    assert len(said) == 1
    assert said[0].startswith(f"sumzero: {tmp_path}/model")
    assert _all_files(tmp_path) == before


def _all_files(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
