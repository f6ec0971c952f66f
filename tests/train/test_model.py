import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from sumzero.errors import DataError
from sumzero.kernels.packed_attention import NAME
from sumzero.train.model import check_context, load_model

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _save(folder, kind, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SHAPE | changes))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no config\.json"):
        load_model(str(tmp_path), torch.float32)


def test_a_missing_weight_is_refused(tmp_path):
    folder = _save(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 missing keys: model\.layers\.1\.mlp\.up_proj"):
        load_model(folder, torch.float32)


def test_more_positions_than_the_model_has_are_refused(tmp_path):
    folder = _save(tmp_path, "llama")
    check_context(folder, 128)
    with pytest.raises(DataError, match=r"data\.max_length = 129: .* has 128 positions"):
        check_context(folder, 129)


def test_the_model_runs_our_attention(tmp_path):
    model = load_model(_save(tmp_path, "qwen3"), torch.float32)
    assert model.config._attn_implementation == NAME
