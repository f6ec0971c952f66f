"""n-gram speculation guesses tokens, and what comes out is what comes out without."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from sumzero.config import Generate, Scratch
from sumzero.infer.engine import Engine, Request
from sumzero.train.scratch import initial_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
SHAPE = Scratch(
    vocab_size=600,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=128,
)
NEW = 40


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory):
    """A random model whose greedy text soon repeats itself, so that guesses come true."""
    folder = tmp_path_factory.mktemp("speculation")
    initial_model(SHAPE, tokenizer, positions=256, seed=0).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_speculation_changes_no_token_and_takes_fewer_steps(model):
    draws = torch.Generator().manual_seed(1)
    prompts = [torch.randint(5, 300, (n,), generator=draws).tolist() for n in (7, 20, 90)]
    settings = Generate(
        max_new_tokens=NEW,
        speculative_tokens=3,
        dtype="float32",
        max_in_flight=4,
        cpu_kv_cache_gib=0.1,
    )
    engine = Engine(model, settings, 256, 0)
    steps = []
    step = engine._engine.step
    engine._engine.step = lambda: steps.append(0) or step()
    requests = [Request(str(number), ids) for number, ids in enumerate(prompts)]
    found = {one.id: list(one.token_ids) for one in engine.generate(requests, [], 0)}
    reference = AutoModelForCausalLM.from_pretrained(model)
    reference.generation_config = GenerationConfig()
    for number, ids in enumerate(prompts):
        given = torch.tensor([ids])
        greedy = GenerationConfig(max_new_tokens=NEW, do_sample=False)
        text = reference.generate(given, greedy, attention_mask=torch.ones_like(given))
        assert found[str(number)] == text[0, len(ids) :].tolist()
    assert len(steps) < NEW
