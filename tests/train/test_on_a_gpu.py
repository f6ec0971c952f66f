"""On a GPU: DeepSpeed trains there in bfloat16, and a run that was stopped goes on exactly."""

import signal

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl

from .launches import Launched

STEPS = 60

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tiny_run, tokenizer):
    folder = tmp_path_factory.mktemp("gpu")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return tiny_run(folder, num_records=200, max_steps=STEPS)


def _prepared(folder, run_file, name, *overrides):
    """The run folder, and what starts the training."""
    overrides = [f"name={name}", f"model.path={run_file.parent}/model", *overrides]
    config = load(run_file, overrides)
    prepare(config)
    return RunFolder.of(config), lambda: Launched(
        folder, 1, run_file, *overrides, accelerator="cuda"
    )


def _events(folder, kind):
    return [x for x in read_jsonl(folder.root / "events.jsonl") if x["event"] == kind]


def _losses(folder):
    return {x["step"]: (x["loss"], x["gradient_norm"]) for x in _events(folder, "step")}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, run_file, dtype):
    dtype_setting = f"model.dtype={dtype}"
    whole, start = _prepared(tmp_path, run_file, f"whole-{dtype}", dtype_setting)
    launched = start()
    assert launched.codes() == [0], launched.said()
    losses = _losses(whole)
    assert losses[STEPS][0] < losses[1][0] - 1

    stopped, start = _prepared(tmp_path, run_file, f"stopped-{dtype}", dtype_setting)
    launched = start()
    launched.until(lambda: len(_events(stopped, "step")) > 3)
    launched.processes[0].send_signal(signal.SIGUSR1)
    assert launched.codes() == [75], launched.said()
    assert 3 < _events(stopped, "preempted")[0]["step"] < STEPS
    launched = start()
    assert launched.codes() == [0], launched.said()
    assert _losses(stopped) == losses
