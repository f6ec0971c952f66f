"""Adapters are applied by vLLM as by peft, and where they are not, nothing is generated."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig

from sumzero.config import Generate
from sumzero.errors import RunError
from sumzero.infer.engine import Engine, Request, lora_request

from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
PROMPT = [5, 9, 200, 31, 8]
NEW = 12


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory):
    """A base, adapters that change it, and adapters that do not."""
    root = tmp_path_factory.mktemp("adapters")
    write_model(root / "base", tokenizer)
    for name, scale in (("works", 0.3), ("idle", 0.0)):
        model = AutoModelForCausalLM.from_pretrained(root / "base")
        settings = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, settings)
        torch.manual_seed(0)
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                weight.data.normal_(0, scale) if scale else weight.data.zero_()
        model.save_pretrained(root / name)
    return root


def test_adapters_change_what_the_base_says_or_are_refused(folders):
    settings = Generate(max_new_tokens=NEW, dtype="float32", max_in_flight=2, cpu_kv_cache_gib=0.1)
    engine = Engine(folders / "base", settings, 256, 0, adapter=folders / "idle")
    requests = [Request("one", PROMPT)]
    for _ in range(2):  # once is not let through the second time
        with pytest.raises(RunError, match="the adapters change nothing: vLLM's output is that"):
            list(engine.generate(requests, [], 0))
    engine._adapter = type(engine._adapter)("works", 2, str(folders / "works"))
    (found,) = engine.generate(requests, [], 0)
    said = {}
    for name in ("works", "idle"):
        model = AutoModelForCausalLM.from_pretrained(folders / name)
        model.generation_config = GenerationConfig()
        greedy = GenerationConfig(max_new_tokens=NEW, do_sample=False)
        given = torch.tensor([PROMPT])
        text = model.generate(given, greedy, attention_mask=torch.ones_like(given))
        said[name] = tuple(text[0, len(PROMPT) :].tolist())
    assert found.token_ids == said["works"] != said["idle"]


def test_no_adapters_are_no_request_for_any():
    assert lora_request(None) is None
