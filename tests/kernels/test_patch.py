import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sumzero.errors import ConfigError
from sumzero.kernels.patch import patch

SHAPE = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.tensor([[5, 8, 13, 21, 34]])


def _model(kind, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SHAPE | changes))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def _replaced(model):
    return {type(module).__name__ for module in model.modules() if "forward" in vars(module)}


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("llama", {"LlamaRMSNorm", "LlamaMLP", "LlamaDecoderLayer"}),
        ("mistral", {"MistralRMSNorm", "MistralMLP", "MistralDecoderLayer"}),
        ("qwen2", {"Qwen2RMSNorm", "Qwen2MLP", "Qwen2DecoderLayer"}),
        ("qwen3", {"Qwen3RMSNorm", "Qwen3MLP", "Qwen3DecoderLayer"}),
        ("qwen3_moe", {"Qwen3MoeRMSNorm", "Qwen3MoeDecoderLayer"}),
        ("gemma", {"GemmaRMSNorm"}),  # its MLP has another gate
        ("granite", {"GraniteRMSNorm", "GraniteMLP"}),  # its residuals are scaled
        ("phi", set()),
    ],
)
def test_what_is_known_is_replaced_and_undone(kind, want):
    model = _model(kind)
    before = model(IDS).logits
    patched = patch(model)
    assert _replaced(model) == want
    assert patched.trims == any("DecoderLayer" in name for name in want)
    patched.undo()
    assert not _replaced(model)
    assert torch.equal(model(IDS).logits, before)
    patched.undo()  # nothing is left to undo


@pytest.mark.parametrize("kind", ["gemma", "granite", "phi3"])
def test_norms_and_mlps_in_a_models_own_layers_change_no_bit_on_the_cpu(kind):
    model = _model(kind)
    before = model(IDS).logits
    patch(model)
    assert _replaced(model)
    assert torch.equal(model(IDS).logits, before)


def test_parameters_keep_their_names():
    model = _model("qwen3")
    before = [name for name, _ in model.named_parameters()]
    patch(model)
    assert [name for name, _ in model.named_parameters()] == before


def test_a_model_with_attention_dropout_is_refused_and_left_alone():
    model = _model("llama", attention_dropout=0.1)
    with pytest.raises(ConfigError, match="attention_dropout"):
        patch(model)
    assert not _replaced(model)
