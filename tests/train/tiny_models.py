"""Tiny models of the kinds that are trained, built from configurations: nothing is downloaded.

Each shows what sets its kind apart: grouped queries, windows shorter than a document, soft caps,
partial rotary embeddings, biases, tied and untied heads, experts.
"""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB_SIZE = 300
WINDOW = 9  # tokens; less than a test's document
_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # attention far from uniform
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_HEADS_OF_8 = {"head_dim": 8}
_LOCAL_AND_GLOBAL = {"layer_types": ["sliding_attention", "full_attention"]}
TINY = {
    "llama": _HEADS_OF_8 | {"attention_bias": True, "mlp_bias": True},
    "mistral": _HEADS_OF_8 | {"sliding_window": WINDOW},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": _HEADS_OF_8 | {"tie_word_embeddings": True},
    "qwen3_moe": _HEADS_OF_8
    | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "gemma": _HEADS_OF_8,
    "gemma2": _HEADS_OF_8
    | _LOCAL_AND_GLOBAL
    | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8}
    | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": _HEADS_OF_8
    | _LOCAL_AND_GLOBAL
    | {"sliding_window": WINDOW, "query_pre_attn_scalar": 8},
    "phi": {"partial_rotary_factor": 0.5, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}
# Their state runs through the whole row: packed documents see each other.
TINY_RECURRENT = {
    "qwen3_next": _HEADS_OF_8
    | {"layer_types": ["linear_attention", "full_attention"]}
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    | {"num_experts": 4, "num_experts_per_tok": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "expand": 2},
    "falcon_mamba": {"state_size": 8, "expand": 2},
}


def tiny_config(name, **changes):
    """Of a tiny model: a kind of the tables, or another that `changes` make tiny."""
    return AutoConfig.for_model(name, **(_SHAPE | (TINY | TINY_RECURRENT).get(name, {}) | changes))


def tiny_model(name, dtype=torch.float32, **changes):
    """A tiny model with the same random weights at each call, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config(name, **changes), dtype=dtype)
        with torch.no_grad():  # biases begin at 0, norms at 1: draw them, that mix-ups show
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()
