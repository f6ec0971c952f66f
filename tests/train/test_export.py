"""What is exported is what was trained, from every layout of a checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sumzero.cli import main
from sumzero.contract import open_contract
from sumzero.stamp import stamped
from sumzero.train.adapters import scale
from sumzero.train.export import export
from sumzero.weights_digest import weights_digest

from .run_cases import CASES

WHOLE = [name for name in CASES if "lora" not in name]
ADAPTED = [name for name in CASES if "lora" in name]


def _files(folder):
    """All tensors of a folder's safetensors files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


def _loaded(folder, dtype):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("name", WHOLE)
def test_every_weight_is_what_was_trained(case, name):
    one = case(name)
    dtype = getattr(torch, one.config.model.dtype)
    model = _loaded(export(one.config), "auto")
    assert model.dtype == dtype
    names = {parameter for parameter, _ in model.named_parameters()}
    assert names == one.live.keys()
    for parameter, value in model.named_parameters():
        assert torch.equal(value, one.live[parameter].to(dtype)), parameter


def test_a_card_that_a_user_has_written_outlives_an_export(case):
    one = case(WHOLE[0])
    card = export(one.config) / "README.md"
    card.write_text("Mine.")
    export(one.config)
    assert card.read_text() == "Mine."
    card.write_text(stamped("Ours, of other weights."))
    export(one.config)
    assert not card.exists()


@pytest.mark.parametrize("name", WHOLE)
def test_the_files_are_those_that_save_pretrained_writes(case, name, tmp_path):
    one = case(name)
    made = export(one.config, shard_size=60_000)
    _loaded(made, "auto").save_pretrained(tmp_path)
    found, want = _files(made), _files(tmp_path)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)
    assert ("lm_head.weight" in found) != (CASES[name][0] == "qwen3")  # which ties it
    index = json.loads((made / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in made.glob("*.safetensors"))
    assert len(files) > 1
    assert files == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in found.values())
    for key, file in index["weight_map"].items():
        assert key in load_file(made / file)
    ours, theirs = (json.loads((x / "config.json").read_text()) for x in (made, tmp_path))
    assert ours == theirs


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_rounded_once_to_the_dtype_that_is_asked_for(case, dtype):
    one = case("tied bf16")
    for key, value in _files(export(one.config, dtype=dtype)).items():
        assert torch.equal(value, one.live[key].to(getattr(torch, dtype))), key


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_are_merged_as_peft_merges_them(case, name):
    one = case(name)
    lora, dtype = one.config.train.lora, getattr(torch, one.config.model.dtype)
    base = AutoModelForCausalLM.from_pretrained(one.config.model.path, dtype=torch.float64)
    merged = _loaded(export(one.config), "auto")
    changed = 0
    for key, value in merged.named_parameters():
        want = base.get_parameter(key)
        module = key.removesuffix(".weight")
        if f"{module}.lora_A.default.weight" in one.live:
            a, b = (one.live[f"{module}.lora_{x}.default.weight"].double() for x in "AB")
            added = scale(lora) * b @ a
            assert added.abs().max() > 1e-3
            want, changed = want + added, changed + 1
        # One rounding of the sum; in float32 the product is rounded as well.
        torch.testing.assert_close(
            value.double(), want, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6
        )
    assert changed == len(one.live) / 2


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_alone_are_loaded_by_peft_with_the_values_trained(case, name):
    one = case(name)
    made = export(one.config, form="adapter")
    assert made.name == "adapter"
    base = AutoModelForCausalLM.from_pretrained(one.config.model.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, made)
    found = {key: value for key, value in model.named_parameters() if "lora" in key}
    dtype = getattr(torch, one.config.model.dtype)
    assert len(found) == len(one.live) > 0
    for key, value in one.live.items():
        assert value.numel()
        assert torch.equal(found[f"base_model.model.{key}"], value.to(dtype).float()), key
    assert model.peft_config["default"].base_model_name_or_path == one.config.model.path
    assert AutoTokenizer.from_pretrained(made).chat_template
    assert (made / "contract.json").is_file()


@pytest.mark.parametrize(
    ("name", "form", "dtype", "told"),
    [
        ("tied", None, "bfloat16", "whole"),
        ("lora", None, None, "merge"),
        ("lora bf16", "adapter", None, "adapter"),
    ],
)
def test_a_folder_says_what_it_was_made_of(case, name, form, dtype, told):
    one = case(name)
    made = export(one.config, form=form, dtype=dtype)
    assert json.loads((made / "export.json").read_text()) == {
        "checkpoint": "step-000002",
        "form": told,
        "dtype": dtype or one.config.model.dtype,
        "base": one.config.model.path,
        "revision": None,
        **(
            {"base_digest": weights_digest(Path(one.config.model.path))}
            if form == "adapter"
            else {}
        ),
    }
    open_contract(made)  # which it is no part of


def test_a_folder_may_be_exported_without_being_loaded(case, capsys):
    one = case("untied")
    one.folder.begin(one.config)
    assert main(["export", str(one.folder.root), "--no-probe"]) == 0
    done = capsys.readouterr()
    assert done.out == f"{one.folder.export}\n"
    assert f"{one.folder.export}: not loaded by transformers, nor by vLLM: --no-probe" in done.err


def test_merged_and_loaded_adapters_give_the_same_logits_and_others_than_the_base(case):
    one = case("lora")
    load = AutoModelForCausalLM.from_pretrained
    ids = torch.tensor([[5, 9, 200, 31, 8]])
    base = load(one.config.model.path, dtype=torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        merged = load(export(one.config)).eval()(ids).logits
        model = PeftModel.from_pretrained(base, export(one.config, form="adapter"))
        adapted = model.eval()(ids).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-4)
    assert (adapted - plain).abs().max() > 0.1
