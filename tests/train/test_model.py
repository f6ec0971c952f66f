import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconMambaConfig

from sumzero.errors import DataError
from sumzero.kernels.packed_attention import NAME
from sumzero.train.model import attention_facts, check_context, load_model

from .tiny_models import tiny_config, tiny_model


def _saved(folder, kind):
    tiny_model(kind).save_pretrained(folder)
    return str(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no config\.json"):
        load_model(str(tmp_path), torch.float32)


def test_a_missing_weight_is_refused(tmp_path):
    folder = _saved(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 missing keys: model\.layers\.1\.mlp\.up_proj"):
        load_model(folder, torch.float32)


def test_more_positions_than_the_model_has_are_refused(tmp_path):
    folder = _saved(tmp_path, "llama")
    check_context(folder, 256)
    with pytest.raises(DataError, match=r"data\.max_length = 257: .* has 256 positions"):
        check_context(folder, 257)


def test_the_model_runs_our_attention(tmp_path):
    model = load_model(_saved(tmp_path, "qwen3"), torch.float32)
    assert model.config._attn_implementation == NAME


def test_a_model_without_attention_is_refused(tmp_path):
    FalconMambaConfig().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="falcon_mamba has no attention"):
        attention_facts(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "want"), [("qwen3", (8, None)), ("phi", (8, None)), ("gemma2", (8, 5.0))]
)
def test_heads_and_caps_are_read_from_the_configuration(tmp_path, kind, want):
    tiny_config(kind).save_pretrained(tmp_path)
    assert attention_facts(str(tmp_path)) == want
