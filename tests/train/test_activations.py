"""What autograd really keeps of a packed row, against the planner's formulas."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.activations import Row, exchange, kept, layer_bytes, logits
from sumzero.train.communication import Cluster, step_traffic
from sumzero.train.devices import device_called
from sumzero.train.structure import Structure
from sumzero.train.supervised import SupervisedLM
from sumzero.train.zero import Zero

from .kept_bytes import SHAPE, kept_bytes, row
from .tiny_models import tiny_model

BATCH = row()
TOKENS = BATCH.input_ids.shape[1]
FUSED = ("llama", "mistral", "qwen2", "qwen3")


def model(name, layers, checkpointing=False):
    lm = tiny_model(name, torch.bfloat16, num_hidden_layers=layers, **SHAPE)
    lm.set_attn_implementation(NAME)
    structure = Structure.of_model(lm)
    if checkpointing:
        lm.gradient_checkpointing_enable()
    return SupervisedLM(lm, Backends("sdpa", "sdpa")).train(), structure


def of_a_layer(name, checkpointing=False):
    """By the difference between models of 5 and of 2 layers, whose last ones are trimmed alike."""
    kept_of = {n: kept_bytes(model(name, n, checkpointing)[0], BATCH) for n in (5, 2)}
    return (kept_of[5] - kept_of[2]) / 3


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_layer_keeps_what_the_formula_says(name):
    """To the byte, but for one float32 a head and token that attention on a GPU keeps."""
    structure = model(name, 2)[1]
    of_attention = 4 * structure.heads * TOKENS
    assert of_a_layer(name) + of_attention == layer_bytes(structure, TOKENS, 2)


@pytest.mark.parametrize("name", ["gemma", "phi"])
def test_of_other_layers_the_formula_is_above(name):
    found, said = of_a_layer(name), layer_bytes(model(name, 2)[1], TOKENS, 2)
    assert found <= said <= 1.5 * found


@pytest.mark.parametrize("name", [*FUSED, "phi"])
def test_a_checkpointed_layer_keeps_its_input(name):
    assert of_a_layer(name, checkpointing=True) == 2 * TOKENS * SHAPE["hidden_size"]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_longer_row_needs_more(name, checkpointing):
    structure = model(name, 3)[1]
    sizes = [
        kept(structure, Row(tokens, tokens // 10), itemsize=2, checkpointing=checkpointing)
        for tokens in (1_000, 2_000, 4_000)
    ]
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=1e-12)
    assert sizes[2] == pytest.approx(4 * sizes[0], rel=1e-12)


def test_logits_are_one_tile_until_a_sum_of_gradients_is_smaller():
    structure = model("llama", 2)[1]
    few, many = (logits(structure, Row(10_000, rows), itemsize=2) for rows in (128, 129))
    assert few == 2 * 128 * (400 + 2 * 64)
    assert many == 2 * 129 * (400 + 2 * 64) + 4 * 400 * 64


RANKS = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """By number of key heads, what two ranks keep a layer and exchange; of 1 they need 2."""
    out = tmp_path_factory.mktemp("shared") / "kept.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={RANKS}", Path(__file__).with_name("kept_on_ranks.py"), out),
        ],
        env={**os.environ, "KEY_HEADS": "[1, 2, 4]", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_ranks_that_share_a_bin_keep_and_exchange_what_the_formulas_say(shared, key_heads):
    """To the byte, but for what attention on a GPU keeps: its result, and a number a head."""
    layers, part = 5, TOKENS // RANKS
    lm = tiny_model("qwen3", num_hidden_layers=layers, num_key_value_heads=key_heads, **SHAPE)
    structure, found = Structure.of_model(lm), shared[str(key_heads)]
    of_attention = part * (4 * structure.heads + 2 * structure.queries)
    assert found["kept"] + of_attention == layer_bytes(structure, part, 2, RANKS)
    assert 2 * max(found["sent"]) == exchange(structure, Row(part, 1, RANKS), itemsize=2)

    zero = Zero.of({"zero_optimization": {"stage": 3}})
    alone, both = (
        step_traffic(
            *(structure, zero, Cluster(device_called("H100"), RANKS, 8)),
            **{"itemsize": 2, "micro_steps": 1, "tokens": part, "sequence_parallel": k},
        )
        for k in (1, RANKS)
    )
    sent = sum(found["sent"]) * (RANKS - 1) / RANKS
    assert both.exposed.intra - alone.exposed.intra == pytest.approx(sent)
