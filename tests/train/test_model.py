import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from sumzero.errors import ConfigError, DataError
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.model import attention_shape, check_context, load_model, prove_packing

SDPA = Backends("sdpa", "sdpa")

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


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"])
def test_the_layout_changes_nothing_on_the_usual_models(tmp_path, kind):
    model = load_model(_save(tmp_path, kind), torch.float32)
    assert prove_packing(model, SDPA, 300, shared=False) < 1e-5
    assert prove_packing(model, SDPA, 300, shared=True) < 1e-5


def test_a_sliding_window_is_kept_to_its_document_and_prefix(tmp_path):
    model = load_model(_save(tmp_path, "mistral", sliding_window=4), torch.float32)
    assert prove_packing(model, SDPA, 300, shared=True) < 1e-5


class RunningMean(torch.nn.Module):
    """Recurrent: its state begins anew with each segment, whatever the segment's prefix is."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(300, 16)

    def forward(self, input_ids, segments, logits_to_keep, **options):
        states = [
            piece.cumsum(0) / torch.arange(1, len(piece) + 1)[:, None]
            for piece in self.embed(input_ids[0]).split(segments.lengths)
        ]
        logits = torch.cat(states)[logits_to_keep] @ self.embed.weight.T
        return CausalLMOutput(logits=logits[None])


def test_a_model_that_can_be_packed_but_cannot_share_is_told_the_setting():
    torch.manual_seed(0)
    assert prove_packing(RunningMean(), SDPA, 300, shared=False) < 1e-5
    with pytest.raises(DataError, match=r"for several targets: .*data\.share_documents = false"):
        prove_packing(RunningMean(), SDPA, 300, shared=True)


@pytest.mark.parametrize("kind", ["mamba", "falcon_mamba"])
def test_a_model_that_leaks_between_documents_is_refused(tmp_path, kind):
    folder = _save(tmp_path, kind, state_size=8, expand=2)
    with pytest.raises(DataError, match=r"cannot be (trained on packed sequences|loaded)"):
        prove_packing(load_model(folder, torch.float32), SDPA, 300, shared=True)


def test_attention_with_capped_scores_is_packed(tmp_path):
    folder = _save(tmp_path, "gemma2", attn_logit_softcapping=0.5, sliding_window=4)
    assert attention_shape(folder) == (8, 0.5)
    assert prove_packing(load_model(folder, torch.float32), SDPA, 300, shared=True) < 1e-5


def test_attention_sinks_are_refused(tmp_path):
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    model = load_model(_save(tmp_path, "gpt_oss", **experts), torch.float32)
    with pytest.raises(ConfigError, match="packed attention has no attention sinks"):
        prove_packing(model, SDPA, 300, shared=True)


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
