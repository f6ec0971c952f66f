import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config

FILE = Path(__file__).parents[2] / "benchmarks" / "train_shapes.py"
spec = importlib.util.spec_from_file_location("train_shapes", FILE)
train_shapes = importlib.util.module_from_spec(spec)
sys.modules["train_shapes"] = train_shapes  # dataclasses look their module up
spec.loader.exec_module(train_shapes)
Span, step_flops = train_shapes.Span, train_shapes.step_flops

SHAPE = train_shapes.Shape(3, 32, 4, 2, 16, 48, 96, tied=True)
LENGTHS = st.integers(1, 3000)


def whole(*lengths):
    return [Span(length, 0, length) for length in lengths]


@pytest.mark.parametrize("length", [1, 24])
def test_torch_counts_the_same_operations_where_nothing_is_masked(length):
    """Eager attention computes l^2 pairs; of them the formula counts the causal half."""
    config = Qwen3Config(**SHAPE.config(), attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(length)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    masked = length**2 / 2
    attention = 12 * SHAPE.layers * SHAPE.heads * SHAPE.head_size * masked
    assert counter.get_total_flops() == step_flops(SHAPE, whole(length), length) + attention


@given(prefix=LENGTHS, length=LENGTHS)
def test_a_segment_behind_a_prefix_completes_the_sequence_of_both(prefix, length):
    split = [Span(prefix, 0, prefix), Span(length, prefix, length)]
    assert step_flops(SHAPE, split, 7) == step_flops(SHAPE, whole(prefix + length), 7)


@given(length=LENGTHS, data=st.data())
def test_queries_that_the_last_layer_leaves_out_are_all_that_it_saves(length, data):
    queries = data.draw(st.integers(0, length))
    kept = step_flops(SHAPE, [Span(length, 0, queries)], 0)
    dropped = length - queries
    matrices = SHAPE.hidden * (2 * SHAPE.heads * SHAPE.head_size + 3 * SHAPE.intermediate)
    attention = SHAPE.heads * SHAPE.head_size * dropped**2 / 2
    saved = 6 * matrices * dropped + 12 * attention
    assert step_flops(SHAPE, whole(length), 0) - kept == pytest.approx(saved, rel=1e-12)


def test_documents_of_a_row_cost_less_attention_than_one_of_its_length():
    row, apart = step_flops(SHAPE, whole(2000), 0), step_flops(SHAPE, whole(*[500] * 4), 0)
    pairs = 2000**2 / 2 - 4 * 500**2 / 2
    assert row - apart == 12 * SHAPE.layers * SHAPE.heads * SHAPE.head_size * pairs
