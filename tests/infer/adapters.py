"""Adapters of a base, as peft writes them, and what peft makes with them."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig


def write_adapter(base, folder, *, rank=8, scale=0.3, seed=0):
    """Random adapters whose B has this scale; with 0 they change nothing."""
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    model = get_peft_model(model, settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, scale) if scale else weight.data.zero_()
    model.save_pretrained(folder)


def tokens_of(folder, prompts, count, **settings):
    """transformers' tokens after each prompt: greedy, of a model or of adapters on their base."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config = GenerationConfig()
    how = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, **settings)
    found = []
    for ids in prompts:
        given = torch.tensor([ids])
        text = model.generate(given, how, attention_mask=torch.ones_like(given))
        found.append(tuple(text[0, len(ids) :].tolist()))
    return found
