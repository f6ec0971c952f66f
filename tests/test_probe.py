import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from sumzero.config import Data, Source
from sumzero.contract import make_contract, write_contract
from sumzero.errors import RunError
from sumzero.probe import NUM_TOKENS, base_folder, disagreement, greedy, probe
from sumzero.prompt import PromptRenderer
from sumzero.runfile import check

CONFIG = check({"name": "run", "model": {"dtype": "float32"}}, "run.toml")


@pytest.fixture
def folder(model_folder, tokenizer, tmp_path):
    """An export folder that tests may damage."""
    made = tmp_path / "export"
    shutil.copytree(model_folder, made)
    data = Data(train=(Source(path="train.jsonl"),))
    write_contract(made, make_contract(PromptRenderer(tokenizer, "head"), data))
    return made


def test_greedy_tokens_are_those_of_transformers_own_search(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = [5, 9, 200, 31, 8]
    settings = GenerationConfig(max_new_tokens=NUM_TOKENS, do_sample=False)
    model.generation_config = GenerationConfig()  # with no end of text
    want = model.generate(torch.tensor([prompt]), settings, attention_mask=torch.ones(1, 5))
    assert greedy(model, prompt, NUM_TOKENS) == want[0, len(prompt) :].tolist()


def test_what_transformers_does_not_load_whole_is_refused(folder, caplog):
    probe(folder, CONFIG, vllm=False)
    assert "not checked with vLLM: --no-vllm" in caplog.text
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.other"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"does not load it whole: .*up_proj.*other"):
        probe(folder, CONFIG, vllm=False)


def test_logits_that_are_not_finite_are_refused(folder):
    wide = torch.tensor([[1.0, 3.0, 2.9, 0.0], [0.5, 0.0, 4.0, 3.0]], dtype=torch.float64)
    for value in (torch.nan, torch.inf):
        exact = wide.clone()
        exact[1, 3] = value
        assert disagreement([1, 2], exact, wide) == "token 2: its logits are not all finite"
        assert disagreement([1, 3], wide, exact) == "token 2: its logits are not all finite"
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][:] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"logits .* token 1 are not all finite in float32; export"):
        probe(folder, CONFIG, vllm=False)


def test_the_base_of_adapters_is_of_the_runs_revision(tmp_path, monkeypatch):
    cache = tmp_path / "models--some--model"
    for revision in ("main", "older"):
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / revision).write_text(f"commit-of-{revision}")
        (cache / "snapshots" / f"commit-of-{revision}").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/model"}')
    for revision, found in ((None, "main"), ("older", "older")):
        config = replace(CONFIG, model=replace(CONFIG.model, revision=revision))
        where = base_folder(tmp_path, config)
        assert where == cache / "snapshots" / f"commit-of-{found}"


def test_tokens_may_differ_within_rounding_and_not_beyond():
    wide = torch.tensor([[1.0, 3.0, 2.9, 0.0], [0.5, 0.0, 4.0, 3.0]], dtype=torch.float64)
    exact = wide.clone()
    exact[0, 3] += 0.03  # the rounding error of the first token's logits; twice twice that is 0.12
    exact[1, 0] -= 0.2
    assert disagreement([1, 2], exact, wide) is None
    assert disagreement([2, 2], exact, wide) is None
    assert disagreement([0, 2], exact, wide).startswith("token 1 is 0, whose logit is 2 below")
    fault = disagreement([2, 3], exact, wide)
    assert fault == ("token 2 is 3, whose logit is 1 below that of 2, with a rounding error of 0.2")
