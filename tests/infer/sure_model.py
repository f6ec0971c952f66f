"""A tiny float32 model whose tokens two programs can be held to."""

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config


def write_model(folder, tokenizer):
    """A random model with sure opinions: greedy texts of it neither repeat one token nor tie."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        intermediate_size=128,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.generation_config = GenerationConfig()  # with no end of text
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
