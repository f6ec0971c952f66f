"""A 4-bit base, with the real bitsandbytes; PYTHONPATH may point to it."""

import importlib.util
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sumzero.config import Lora
from sumzero.errors import ConfigError, DataError, RunError
from sumzero.train.attest import attest
from sumzero.train.export import export
from sumzero.train.four_bit import quantization
from sumzero.train.model import load_model

from . import run_cases
from .tiny_models import tiny_model

LORA = Lora(base="4bit")
STAGE_2 = {"zero_optimization": {"stage": 2}}
CASES = {
    "4bit": ("llama", 2, "float32", {"rank": 3, "dropout": 0.1, "base": "4bit"}),
    "4bit bf16": ("qwen3", 2, "bfloat16", {"rank": 3, "base": "4bit"}),
}
installed = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def test_zero_3_is_refused_with_the_preset_to_take():
    with pytest.raises(ConfigError, match=r"cannot be split by ZeRO-3.*train\.deepspeed=zero2"):
        quantization(LORA, {"zero_optimization": {"stage": 3}}, torch.float32)
    assert quantization(None, {"zero_optimization": {"stage": 3}}, torch.float32) is None
    assert quantization(Lora(), STAGE_2, torch.float32) is None


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_without_bitsandbytes_the_line_says_how_to_get_it():
    with pytest.raises(RunError, match="bitsandbytes is not installed; pip install bitsandbytes"):
        quantization(LORA, STAGE_2, torch.float32)


@pytest.fixture(params=["llama float32", "qwen3_moe bfloat16"])
def loaded(request, tmp_path):
    """A model in 4 bits, the dtype of what is not, and the folder it came from."""
    kind, dtype = request.param.split()
    dtype = getattr(torch, dtype)
    tiny_model(kind).save_pretrained(tmp_path)
    return load_model(tmp_path, dtype, quantization=quantization(LORA, STAGE_2, dtype)), tmp_path


@installed
def test_linear_layers_are_held_in_4_bits_and_attested(loaded):
    model, folder = loaded
    kinds = {name: type(x).__name__ for name, x in model.named_parameters()}
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == "Params4bit"
    assert kinds["lm_head.weight"] == kinds["model.embed_tokens.weight"] == "Parameter"
    attest(model, folder)


@installed
@pytest.mark.parametrize("part", ["values", "scales", "scales of scales", "another weight"])
def test_a_changed_bit_of_a_weight_in_4_bits_is_found(loaded, part):
    model, folder = loaded
    weight = model.model.layers[1].self_attn.v_proj.weight
    name = "model.layers.1.self_attn.v_proj.weight"
    if part == "values":
        weight.data[3] ^= 16
    elif part == "scales":
        weight.quant_state.absmax[1] ^= 1
    elif part == "scales of scales":
        weight.quant_state.state2.absmax[0] *= 1.0000002
    else:
        model.model.layers[1].input_layernorm.weight.data[3] += 0.5
        name = "model.layers.1.input_layernorm.weight"
    with pytest.raises(DataError, match=rf"not what the files hold, after loading: {name} "):
        attest(model, folder)


@installed
def test_a_file_that_changes_after_loading_is_found(loaded):
    model, folder = loaded
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.o_proj.weight"][0] *= 2
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"layers\.0\.self_attn\.o_proj\.weight"):
        attest(model, folder)


@installed
def test_adapters_over_4_bits_are_trained_on_two_ranks_and_merged_into_the_files_weights(
    tmp_path_factory, tokenizer, prepared
):
    root = tmp_path_factory.mktemp("four_bit")
    bits = os.path.dirname(importlib.util.find_spec("bitsandbytes").submodule_search_locations[0])
    paths = [os.environ.get("PYTHONPATH", ""), bits]
    run_cases.train(root, tokenizer, CASES, {"PYTHONPATH": os.pathsep.join(filter(None, paths))})
    for name in CASES:
        one = run_cases.as_run(root, prepared, name, CASES)
        made = export(one.config)
        module, factor = "model.layers.0.mlp.up_proj", 32 / 3
        a, b = (one.live[f"{module}.lora_{x}.default.weight"] for x in "AB")
        with safe_open(f"{one.config.model.path}/model.safetensors", "pt") as base:
            want = base.get_tensor(f"{module}.weight").addmm(b, a, alpha=factor)
        found = load_file(made / "model.safetensors")[f"{module}.weight"]
        assert torch.equal(found, want.to(found.dtype))
        assert (factor * b @ a).abs().max() > 1e-3
        assert export(one.config, form="adapter").is_dir()
