from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sumzero.errors import ConfigError
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.supervised import SupervisedLM, last_queries

from .tiny_models import TINY, tiny_model

SDPA = Backends("sdpa", "sdpa")
FAMILIES = [
    Family([11, 12, 13, 14], (Branch([15], [16, 17, 18]), Branch([19, 20], [19]))),
    Family([21, 22], (Branch([], [23, 24]), Branch([], [25, 26, 27]), Branch([], [28]))),
    Family([31, 32, 33], (Branch([34], [35, 36]),)),
]
TRIMMED = ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe"]
LOSS_WEIGHTS = pytest.mark.parametrize("loss_weight", ["token", "target"])


def _model(kind="qwen3", dtype=torch.float32, *, fused=True, **changes):
    if kind == "qwen3_moe":  # grouped products take no float64
        changes["experts_implementation"] = "eager"
    lm = tiny_model(kind, dtype, attn_implementation=NAME, **changes)
    return SupervisedLM(lm, SDPA, fused=fused)


def _loss_and_gradients(model, batch):
    loss = model(batch)
    loss.backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.requires_grad}
    model.zero_grad()
    return loss.detach(), gradients


def _assert_same(found, want, tolerance):
    torch.testing.assert_close(found[0], want[0], rtol=tolerance, atol=0)
    assert found[1].keys() == want[1].keys()
    for name, gradient in found[1].items():
        error = (gradient - want[1][name]).norm() / want[1][name].norm()
        assert error <= tolerance, name


@LOSS_WEIGHTS
@pytest.mark.parametrize("kind", TRIMMED)
def test_a_trimmed_last_layer_has_the_loss_and_gradients_of_a_full_one(kind, loss_weight):
    batch = make_batch(FAMILIES, 0, loss_weight)
    ours, full = (_model(kind, torch.float64, fused=fused) for fused in (True, False))
    # The norms go through float32 in both.
    _assert_same(_loss_and_gradients(ours, batch), _loss_and_gradients(full, batch), 1e-6)


@pytest.mark.parametrize("kind", TRIMMED)
def test_the_last_layer_runs_on_what_the_loss_needs(kind):
    model, rows = _model(kind), {}

    def note(module, inputs, name):
        rows[name] = inputs[0].shape[-2]

    for number, layer in enumerate(model.lm.model.layers):
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(layer.self_attn, part).register_forward_pre_hook(
                partial(note, name=f"{part} {number}")
            )
    head = model.lm.get_output_embeddings()
    head.register_forward_pre_hook(partial(note, name="head"))
    batch = make_batch(FAMILIES, 0)
    model(batch)
    tokens, supervised = batch.input_ids.shape[1], len(batch.positions)
    distinct = len(set(batch.positions.tolist()))  # a prefix's last token, for each of its branches
    assert rows == {
        **dict.fromkeys((f"{x}_proj 0" for x in "qkvo"), tokens),
        **{"q_proj 1": distinct, "o_proj 1": distinct, "k_proj 1": tokens, "v_proj 1": tokens},
        "head": supervised,
    }
    assert distinct < supervised < tokens


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", TINY)
def test_an_empty_bin_has_loss_0_and_a_gradient_of_0_everywhere(kind, fused):
    loss, gradients = _loss_and_gradients(_model(kind, fused=fused), make_batch([], 0))
    assert loss == 0
    assert all(x is not None and not x.any() for x in gradients.values())


@pytest.mark.parametrize("kind", TINY)
def test_the_reference_is_what_transformers_computes(kind):
    family = FAMILIES[2]
    plain = tiny_model(kind, torch.float32, attn_implementation="eager")
    want = plain(input_ids=torch.tensor([[31, 32, 33, 34, 35]])).logits[0, 3:]
    model = _model(kind)
    batch = make_batch([family], 0)
    torch.testing.assert_close(model(batch, "reference"), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(batch, "logits"), want, rtol=1e-5, atol=1e-5)


def test_by_token_every_position_counts_the_same():
    model, batch = _model(), make_batch(FAMILIES, 0)
    want = F.cross_entropy(model(batch, "logits"), batch.labels, reduction="sum")
    torch.testing.assert_close(model(batch), want)


def test_by_target_the_loss_is_the_sum_of_the_targets_means():
    model, batch = _model(), make_batch(FAMILIES, 0, "target")
    each = F.cross_entropy(model(batch, "logits"), batch.labels, reduction="none")
    want = sum(losses.mean() for losses in each.split([3, 1, 2, 3, 1, 2]))
    torch.testing.assert_close(model(batch), want)


@LOSS_WEIGHTS
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2],
)
def test_the_loss_is_float32_unless_the_model_is_float64(dtype, expected, loss_weight):
    assert _model(dtype=dtype)(make_batch(FAMILIES, 0, loss_weight)).dtype == expected


@pytest.mark.parametrize("kind", TINY)
def test_gradient_checkpointing_changes_no_bit(kind):
    batch = make_batch(FAMILIES, 0)
    kept, recomputed = _model(kind).train(), _model(kind).train()
    recomputed.lm.gradient_checkpointing_enable()
    _assert_same(_loss_and_gradients(recomputed, batch), _loss_and_gradients(kept, batch), 0)


def test_a_frozen_head_leaves_the_other_gradients_as_they_are():
    batch = make_batch(FAMILIES, 0)
    want = _loss_and_gradients(_model("llama"), batch)
    model = _model("llama")
    model.lm.lm_head.weight.requires_grad_(False)
    found = _loss_and_gradients(model, batch)
    del want[1]["lm.lm_head.weight"]
    _assert_same(found, want, 0)


def test_a_frozen_tied_head_leaves_the_other_gradients_as_they_are():
    batch = make_batch(FAMILIES, 0)
    want = _loss_and_gradients(_model("qwen3"), batch)
    model = _model("qwen3")
    assert model.lm.lm_head.weight is model.lm.model.embed_tokens.weight
    model.lm.lm_head.weight.requires_grad_(False)
    found = _loss_and_gradients(model, batch)
    del want[1]["lm.model.embed_tokens.weight"]
    _assert_same(found, want, 0)


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        (
            "qwen2_moe",
            {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2}
            | {
                "moe_intermediate_size": 16,
                "shared_expert_intermediate_size": 16,
                "num_experts": 4,
            },
            "Qwen2MoeAttention limits what a token sees by a mask alone",
        ),
        (
            "deepseek_v2",
            {"q_lora_rank": None, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
            | {"v_head_dim": 4, "n_routed_experts": 4, "moe_intermediate_size": 16},
            "DeepseekV2Attention has values of another size than keys",
        ),
    ],
)
def test_attention_that_no_back_end_computes_is_refused(kind, changes, problem):
    with pytest.raises(ConfigError, match=problem):
        _model(kind, **changes)(make_batch(FAMILIES, 0))


def test_a_head_that_is_not_linear_is_refused():
    lm = tiny_model("llama", attn_implementation=NAME)
    lm.lm_head = torch.nn.Sequential(lm.lm_head)
    with pytest.raises(ConfigError, match="its LM head is a Sequential"):
        SupervisedLM(lm, SDPA)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1), st.randoms())
def test_kept_are_the_ends_of_the_segments_from_their_first_supervised_token(shapes, random):
    lengths = [length for length, _ in shapes]
    starts = np.cumsum([0, *lengths])
    drawn = [
        int(start) + random.randrange(length)
        for start, (length, count) in zip(starts, shapes, strict=False)
        for _ in range(count)
    ]
    random.shuffle(drawn)
    queries, kept, rows = last_queries(lengths, np.array(drawn, np.int64))
    assert kept[rows].tolist() == drawn
    ends = [range(end - n, end) for end, n in zip(starts[1:].tolist(), queries, strict=True)]
    assert kept.tolist() == [position for piece in ends for position in piece]
    if drawn:
        assert {piece.start for piece in ends if piece} <= set(drawn)
    else:
        assert len(kept) == 1
