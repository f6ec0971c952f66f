"""What autograd really keeps of a packed row, against the planner's formulas."""

import pytest
import torch

from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.activations import Row, kept, layer_bytes, logits
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.structure import Structure
from sumzero.train.supervised import SupervisedLM

from .tiny_models import tiny_model

SHAPE = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 160}
BATCH = make_batch([Family(list(range(100, 220)), (Branch([5], list(range(10, 30))),))], 0)
TOKENS = BATCH.input_ids.shape[1]
FUSED = ("llama", "mistral", "qwen2", "qwen3")


def model(name, layers, checkpointing=False):
    lm = tiny_model(name, torch.bfloat16, num_hidden_layers=layers, **SHAPE)
    lm.set_attn_implementation(NAME)
    structure = Structure.of_model(lm)
    if checkpointing:
        lm.gradient_checkpointing_enable()
    return SupervisedLM(lm, Backends("sdpa", "sdpa")).train(), structure


def kept_bytes(model):
    parameters = {x.untyped_storage().data_ptr() for x in model.parameters()}
    found, alive = {}, []

    def keep(x):
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        alive.append(x)  # so that no address is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(BATCH)
    return sum(size for address, size in found.items() if address not in parameters)


def of_a_layer(name, checkpointing=False):
    """By the difference between models of 5 and of 2 layers, whose last ones are trimmed alike."""
    kept_of = {n: kept_bytes(model(name, n, checkpointing)[0]) for n in (5, 2)}
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
