import math

import pytest
import torch

from sumzero.config import Lora
from sumzero.errors import ConfigError
from sumzero.kernels.packed_attention import NAME
from sumzero.kernels.segments import Backends
from sumzero.train.adapters import adapted, add_adapters, bin_seed, scale
from sumzero.train.batches import Branch, Family, make_batch
from sumzero.train.supervised import SupervisedLM

from .tiny_models import TINY, tiny_model

BATCH = make_batch([Family([11, 12, 13, 14], (Branch([15], [16, 17]), Branch([19], [20])))], 0)


def _trainable(model):
    return {name: x for name, x in model.named_parameters() if x.requires_grad}


@pytest.mark.parametrize("kind", TINY)
def test_every_linear_layer_but_the_head_gets_an_adapter_and_nothing_else_is_trained(kind):
    model = tiny_model(kind, torch.bfloat16)
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module is not head
    ]
    add_adapters(model, Lora(rank=3), seed=0)
    names = {f"{name}.lora_{part}.default.weight" for name in linear for part in "AB"}
    assert _trainable(model).keys() == names
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}


def test_a_model_with_new_adapters_gives_what_it_gave_before():
    ids = torch.tensor([[5, 9, 200, 31, 8]])
    model = tiny_model("llama")
    before = model(ids).logits
    add_adapters(model, Lora(dropout=0.5), seed=0)
    assert torch.equal(model.eval()(ids).logits, before)


def test_adapters_begin_the_same_for_a_seed_whatever_was_drawn_before():
    drawn = []
    for seed in (1, 1, 2):
        torch.rand(len(drawn) + 1)
        state = torch.get_rng_state()
        model = tiny_model("qwen3")
        add_adapters(model, Lora(rank=2), seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append({name: x for name, x in _trainable(model).items() if "lora_A" in name})
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_counts_as_its_scale_says(rslora):
    lora = Lora(rank=4, alpha=6.0, targets=["q_proj"], rslora=rslora)
    assert scale(lora) == (3.0 if rslora else 1.5)
    assert scale(lora) == 6.0 / (math.sqrt(4) if rslora else 4)
    model = tiny_model("llama")
    add_adapters(model, lora, seed=0)
    layer = model.model.layers[1].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B.default.weight.normal_()
    x = torch.randn(3, 32)
    added = scale(lora) * x @ layer.lora_A.default.weight.T @ layer.lora_B.default.weight.T
    torch.testing.assert_close(layer(x), layer.base_layer(x) + added)


def test_targets_are_names_or_the_ends_of_names():
    model = tiny_model("llama")
    assert adapted(model, Lora(targets=["layers.1.self_attn.q_proj", "up_proj"])) == [
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]


def test_targets_that_are_no_linear_layers_are_named_all_at_once():
    with pytest.raises(ConfigError) as caught:
        adapted(tiny_model("llama"), Lora(targets=["q_prj", "embed_tokens", "lm_head", "up_proj"]))
    first, second, third = caught.value.problems
    assert first.startswith("train.lora.targets: 'q_prj' is no module of LlamaForCausalLM; did you")
    assert "q_proj" in first
    assert "'embed_tokens' is no linear layer of LlamaForCausalLM, but Embedding" in second
    assert "'lm_head' is the head of LlamaForCausalLM, which gets no adapter" in third


def test_bins_have_seeds_of_their_own_that_other_runs_and_steps_do_not_share():
    seeds = {
        bin_seed(seed, step, bin_)
        for seed in (0, 1, 11)
        for step in (0, 1, 11, 111)
        for bin_ in (-1, 0, 1, 11, 111)
    }
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert bin_seed(7, 30, 4) == 0x507D9792BBF983D9  # a resumed run draws what it drew


class DropFeatures(torch.nn.Module):
    """Drops the same features of every row: unlike dropout, it does not depend on a row's place."""

    def forward(self, x):
        return x * (torch.arange(x.shape[-1]) % 3 > 0)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])  # their layers are ours
def test_fused_and_trimmed_layers_drop_what_the_models_own_drop(kind):
    losses = {}
    for fused in (True, False):
        for drops in (True, False):
            lm = _with_output(kind, dropout=0.0)
            for name, module in list(lm.named_modules()):
                if drops and name.endswith("lora_dropout"):
                    module["default"] = DropFeatures()
            model = SupervisedLM(lm, Backends("sdpa", "sdpa"), fused=fused).train()
            losses[fused, drops] = model(BATCH).item()
    for drops in (True, False):
        assert losses[True, drops] == pytest.approx(losses[False, drops], rel=1e-5)
    assert abs(losses[True, True] - losses[True, False]) > 1e-3 * losses[True, True]


def test_a_bins_seed_settles_what_is_dropped():
    model = SupervisedLM(_with_output("llama", dropout=0.4), Backends("sdpa", "sdpa")).train()
    losses = []
    for bin_ in (1, 1, 2):
        torch.rand(len(losses) + 1)
        torch.manual_seed(bin_seed(0, 5, bin_))
        losses.append(model(BATCH).item())
    assert losses[0] == losses[1] != losses[2]


def _with_output(kind, dropout):
    """A model whose adapters give something other than 0."""
    lm = tiny_model(kind)
    lm.set_attn_implementation(NAME)
    add_adapters(lm, Lora(rank=2, dropout=dropout), seed=0)
    with torch.no_grad():
        for name, x in _trainable(lm).items():
            if "lora_B" in name:
                x.fill_(0.1)
    return lm
