"""Adapters are served on their base, each under its own name."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from .served_run import ROWS, Server, learn, promised, write_run

pytestmark = pytest.mark.slow  # a server of its own
OTHERS = [f"Another text, {row['id']}." for row in ROWS]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    return write_run(tmp_path_factory.mktemp("adapted"), tokenizer)


@pytest.fixture(scope="module")
def server(run, tokenizer):
    tmp_path = run.parent
    base = tmp_path / "base"
    (tmp_path / "runs" / "run" / "export").rename(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, settings)
    adapter = tmp_path / "runs" / "run" / "adapter"
    learn(model, *promised(adapter, tokenizer), OTHERS, lr=1e-2)
    model.save_pretrained(adapter)
    one = Server(run)
    try:
        yield one.ready()
    finally:
        one.end()


def test_adapters_are_served_where_there_is_no_export(server):
    for row, other in zip(ROWS, OTHERS, strict=True):
        assert server.summarize(document=row["document"])[1]["summary"] == other
    models = json.loads(server.ask("GET", "/v1/models")[2])["data"]
    assert {model["id"]: model["parent"] for model in models} == {
        "run-base": None,
        "run": "run-base",
    }
    said = []
    for model in ("run-base", "run"):
        messages = [{"role": "user", "content": ROWS[0]["document"]}]
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 16}
        said.append(json.loads(server.ask("POST", "/v1/chat/completions", body)[2])["choices"][0])
    assert said[0]["message"]["content"] != said[1]["message"]["content"]


def test_adapters_that_change_nothing_are_not_served(server, run):
    file = run.parent / "runs" / "run" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    idle = {name: x * (1 if "lora_A" in name else 1e-30) for name, x in tensors.items()}
    assert all(x.any() for x in idle.values())  # which the file does not show
    save_file(idle, file, metadata={"format": "pt"})
    one = Server(run)
    try:
        assert one.process.wait(300) == 2
    finally:
        one.end()
    assert "adapter: the adapters change nothing: vLLM's output is that" in one.log.read_text()
