import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from sumzero import ds_configs
from sumzero.errors import ConfigError, RunError
from sumzero.runfile import check
from sumzero.train.communication import Cluster
from sumzero.train.devices import device_called
from sumzero.train.epoch import Epoch, Layout
from sumzero.train.estimate import GIB
from sumzero.train.outlook_table import as_json, table
from sumzero.train.packing import Pieces, make_plan
from sumzero.train.planner import outlook, weigh
from sumzero.train.structure import Structure

from .tiny_models import tiny_model

LLAMA_8B = {
    **{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336},
    **{"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    "max_position_embeddings": 131072,
}
H100 = device_called("H100")
ROWS = [{"id": str(i), "document": "A short text. " * i, "target": "Text."} for i in range(1, 9)]


def of_8b(lora=None):
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **LLAMA_8B), dtype=torch.bfloat16
        )
    return Structure.of_model(lm, lora)


def recipe(tokens, bins, **training):
    training = {"bins_per_step": bins, "gradient_checkpointing": True, **training}
    data = {"max_length": tokens}
    model = {"path": "llama-8b"}
    return check({"name": "r", "model": model, "data": data, "train": training}, "run.toml")


def full_bins(tokens, count, bins, supervised=None):
    """An epoch of documents as long as a bin, every token supervised where not said otherwise."""
    lengths = np.full(count, tokens)
    wanted = np.full(count, tokens if supervised is None else supervised)
    pieces = Pieces(lengths, lengths * (lengths + 1) // 2, wanted, wanted)
    numbers = np.arange(count)
    layout = Layout(pieces, numbers, numbers, numbers + 1, np.zeros(count, np.int64))
    return Epoch(0, layout, make_plan(pieces, limit=tokens, bins_per_step=bins))


FULL_8B = of_8b()


def plan_8b(world, room=80, tokens=8192, bins=64, structure=FULL_8B, **training):
    config = recipe(tokens, bins, **training)
    epoch = full_bins(tokens, 2 * bins, bins, tokens // 10)
    return weigh(config, structure, epoch, Cluster(H100, world, 8), round(room * GIB))


@pytest.mark.parametrize(("checkpointing", "share"), [(True, 1.01), (False, 1.32)])
def test_an_8b_model_is_as_fast_as_published(checkpointing, share):
    """torchtitan: 5,762 tokens/s a GPU, Llama 3.1 8B, 8 H100, 8,192 tokens, parts recomputed: so
    between all and nothing of it (benchmarks/llama3_h100_202412_torchtitan.md)."""
    config = recipe(8192, 8, gradient_checkpointing=checkpointing)
    epoch = full_bins(8192, 16, 8)
    found = weigh(config, FULL_8B, epoch, Cluster(H100, 8, 8), 80 * GIB)
    assert found.own.rate / 8 == pytest.approx(5762 * share, rel=0.03)


def test_lora_is_as_fast_as_published():
    """NeMo Automodel: 12,473 tokens/s, Llama 3 8B on one H100, 4,096 tokens."""
    config = recipe(4096, 1, gradient_checkpointing=False, lora={"rank": 16})
    structure = of_8b(config.train.lora)
    found = weigh(config, structure, full_bins(4096, 4, 1), Cluster(H100, 1, 8), 80 * GIB)
    assert found.own.rate == pytest.approx(12_473, rel=0.1)


def test_model_state_of_an_8b_model_is_16_bytes_a_parameter_over_all_ranks():
    found = plan_8b(16)
    memory = next(x for x in found.options if x.preset == "zero3").memory
    state = memory.parameters + memory.gradients + memory.optimizer
    assert state == pytest.approx(16 * FULL_8B.numel / 16, rel=0.01)


@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.sampled_from([None, {"rank": 16}]))
def test_more_gpus_never_need_more_memory_each(world, lora):
    structure = STRUCTURES[lora is not None]
    fewer, more = (plan_8b(x, structure=structure, lora=lora).options for x in (world, 2 * world))
    for option in fewer:
        twin = [x for x in more if x.settings == option.settings]
        assert all(x.memory.total <= option.memory.total for x in twin)


STRUCTURES = (FULL_8B, of_8b(recipe(64, 1, lora={"rank": 16}).train.lora))


@given(st.floats(4, 200), st.floats(1, 3), st.sampled_from([1, 8, 16]))
def test_more_memory_fits_no_less_and_what_is_recommended_fits(room, times, world):
    small, large = plan_8b(world, room), plan_8b(world, room * times)
    for before, after in zip(small.options, large.options, strict=True):
        assert small.over(before) >= large.over(after)
        assert before.longest_bin <= after.longest_bin
        assert bool(small.over(before)) == (before.longest_bin < 8192)
    for found in (small, large):
        fitting = [x for x in found.options if not found.over(x)]
        assert (found.chosen is None) == (not fitting)
        if found.chosen:
            assert found.chosen in fitting
            assert found.chosen.rate >= 0.98 * max(x.rate for x in fitting)


def test_recomputing_saves_memory_and_costs_time():
    options = plan_8b(8).options
    kept, again = (next(x for x in options if x.checkpointing is y) for y in (False, True))
    assert again.memory.activations < kept.memory.activations / 4
    assert again.seconds > kept.seconds


def test_what_does_not_fit_is_said_plainly():
    found = plan_8b(8, room=24, gradient_checkpointing=False)
    text = table(recipe(8192, 64), found)
    over = found.over(found.own) / GIB
    assert over > 0
    assert (
        f"the recipe's own choice (zero3, no gradient checkpointing) does not fit: {over:.1f} GiB"
        in text
    )
    assert "train.gradient_checkpointing=true" in text
    none = table(recipe(8192, 64), plan_8b(8, room=4))
    assert "nothing fits; least is over by" in none
    assert none.count("does not fit: ") >= len(found.options)


def test_shared_bins_are_counted_without_the_trimmed_layer():
    alone, shared = (
        plan_8b(8, sequence_parallel=k, gradient_checkpointing=False).own for k in (1, 4)
    )
    assert shared.micro_steps == 4 * alone.micro_steps
    assert shared.memory.activations < 0.3 * alone.memory.activations
    assert shared.flops > alone.flops
    assert shared.longest_bin > 3 * alone.longest_bin


def test_a_preset_that_cannot_run_the_recipe_is_named(monkeypatch, tmp_path):
    """Others are planned all the same."""
    (tmp_path / "odd.json").write_text('{"train_batch_size": 3}')
    (tmp_path / "two.json").write_text('{"zero_optimization": {"stage": 2}}')
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    monkeypatch.setattr(ds_configs, "__file__", str(tmp_path / "__init__.py"))
    found = plan_8b(8)
    assert {option.preset for option in found.options} == {"two", "zero3"}
    assert "odd holds train_batch_size" in found.refused["odd"]
    assert "odd: cannot run this recipe: train.deepspeed: odd holds" in table(
        recipe(8192, 64), found
    )


def refused(found, preset):
    """Why a preset cannot run the recipe; nothing of it is planned."""
    assert not [option for option in found.options if option.preset == preset]
    return found.refused[preset]


def test_a_base_in_4_bits_is_planned_without_stage_3():
    lora = {"rank": 16, "base": "4bit"}
    structure = of_8b(recipe(64, 1, lora=lora).train.lora)
    found = plan_8b(2, structure=structure, lora=lora, deepspeed="zero2")
    assert {x.preset for x in found.options} >= {"zero2"}
    for preset in ("zero3", "zero3_offload", "zeropp", "zero3_ulysses"):
        assert "cannot be split by ZeRO-3" in refused(found, preset)
    assert found.chosen.preset == "zero2"
    with pytest.raises(ConfigError, match=r"set train\.deepspeed=zero2"):
        plan_8b(2, structure=structure, lora=lora)


def test_targets_that_are_no_layers_are_refused_beside_those_that_are():
    lora = recipe(64, 1, lora={"targets": ["q_proj", "k_prj"]}).train.lora
    with pytest.raises(ConfigError, match=r"'k_prj' is no module of LlamaForCausalLM; did you"):
        of_8b(lora)


def test_dropout_in_adapters_is_planned_without_shared_bins():
    found = plan_8b(8, structure=STRUCTURES[1], lora={"rank": 16, "dropout": 0.1})
    assert "train.lora.dropout = 0.1 with" in refused(found, "zero3_ulysses")
    assert found.chosen.sequence_parallel == 1


def test_a_recipe_whose_ranks_cannot_share_bins_is_refused():
    with pytest.raises(ConfigError, match=r"= 3 must divide the 6 ranks and the 32 attention head"):
        plan_8b(6, sequence_parallel=3)


@pytest.mark.filterwarnings("ignore:.*original_max_position_embeddings")
@pytest.mark.parametrize(("kind", "said"), [("lfm2", "has layers of conv"), ("phi3", "longrope")])
def test_models_whose_rows_cannot_be_divided_are_planned_without_shared_bins(kind, said):
    factors = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_scaling": factors, "original_max_position_embeddings": 128}
    lm = tiny_model(kind, **(rope if kind == "phi3" else {}))
    found = plan_8b(8, structure=Structure.of_model(lm), tokens=200)
    assert said in refused(found, "zero3_ulysses")
    assert found.chosen.sequence_parallel == 1


def test_nodes_of_unequal_size_are_planned_without_hpz():
    assert "= 8 does not divide the 12 ranks" in refused(plan_8b(12), "zeropp")
    assert "zeropp" in {option.preset for option in plan_8b(16).options}
    with pytest.raises(ConfigError, match="zero_hpz_partition_size = 8 does not divide the 12"):
        plan_8b(12, deepspeed="zeropp")


@pytest.fixture(scope="module")
def ready(prepared, model_folder):
    """A prepared run of a small model; `training` changes it."""
    made = prepared(ROWS, model=model_folder, max_length=128, training={"bins_per_step": 2})
    return made.config


def on(world):
    return Cluster(H100, world, 8)


def test_a_prepared_run_is_planned_by_its_lengths(ready):
    found = outlook(ready, on(2), 80 * GIB)
    assert found.chosen is not None
    assert found.own.tokens > 100
    presets = {option.preset for option in found.options}
    assert "zero3" in presets
    values = json.loads(json.dumps(as_json(ready, found)))
    assert values["recommended"]["fits"] is True
    assert values["recipe"]["settings"]["train.deepspeed"] == "zero3"
    assert values["parameters"] == found.structure.numel
    total = values["recipe"]["memory"]["total"]
    assert total == found.own.memory.total > found.own.memory.reserve


def test_a_users_own_preset_is_planned_too(ready, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}}))
    config = replace(ready, train=replace(ready.train, deepspeed=str(file)))
    found = outlook(config, on(2), 80 * GIB)
    assert found.own.preset == str(file)
    assert found.own.memory.parameters == 2 * found.structure.numel


def test_faults_are_told(ready):
    with pytest.raises(ConfigError, match=r"3 GPUs take 3 bins at once, but a step has .* = 2"):
        outlook(ready, on(3), GIB)
    other = replace(ready, data=replace(ready.data, max_length=256))
    with pytest.raises(RunError, match=r"prepared with other settings \(data.max_length\)"):
        outlook(other, on(1), GIB)
    with pytest.raises(RunError, match=r"is missing; run `sumzero prepare RUN.toml` first"):
        outlook(replace(ready, name="another"), on(1), GIB)
    odd = replace(ready, train=replace(ready.train, sequence_parallel=2))
    with pytest.raises(ConfigError, match=r"sequence_parallel = 2 must divide the 3 ranks"):
        outlook(odd, on(3), GIB)
