import json

import pytest

from sumzero.config import Model, Train
from sumzero.errors import ConfigError, RunError
from sumzero.train.engine import deepspeed_settings, zero3_loading


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"bf16": {"enabled": True}}, r"holds bf16 \(set model\.dtype\)"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "offloads parameters to NVMe.*offload them to the CPU",
        ),
        ({"amp": {}, "sequence_parallel_size": 2}, r"holds amp \(.*sequence_parallel_size \(set"),
        ({"activation_checkpointing": {}}, r"set train\.gradient_checkpointing"),
        ({"compile": {"deepcompile": True}}, r"compile \(DeepCompile is not used"),
        (
            {"zero_optimization": {"stage": 2, "compute_grad_norm": False}},
            r"zero_optimization\.compute_grad_norm \(train\.clip needs",
        ),
        ({"zero_optimization": {"stage": 0}}, r"zero_optimization\.stage must be 1, 2 or 3"),
        ({"zero_optimization": True}, r"zero_optimization\.stage must be 1, 2 or 3"),
        ({"communication_data_type": "fp32"}, r"zero_optimization\.stage must be 1, 2 or 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, problem):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=problem):
        deepspeed_settings(Model(), Train(deepspeed=str(file)), 1)


def test_other_keys_of_a_user_stay(tmp_path):
    file = tmp_path / "zero.json"
    own = {"zero_optimization": {"stage": 3}, "communication_data_type": "fp32", "x": 1}
    file.write_text(json.dumps(own))
    found = deepspeed_settings(Model(), Train(deepspeed=str(file)), 4)
    assert {key: found[key] for key in own} == own
    assert found["gradient_accumulation_steps"] == 4


def test_a_misspelt_key_of_zero_is_named(tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "overlap_com": True}}))
    settings = deepspeed_settings(Model(), Train(deepspeed=str(file)), 1)
    with (
        pytest.raises(ConfigError, match=r"zero_optimization\.overlap_com: Extra inputs"),
        zero3_loading(settings),
    ):
        pass


def test_the_ulysses_preset_needs_ranks_that_share_a_bin():
    with pytest.raises(ConfigError, match=r"set train\.sequence_parallel to 2 or more"):
        deepspeed_settings(Model(), Train(deepspeed="zero3_ulysses"), 1)


def test_nvme_without_a_compiler_says_what_to_install(tmp_path, monkeypatch):
    settings = deepspeed_settings(Model(), Train(deepspeed="zero3_nvme"), 1, swap=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(RunError, match=r"install libaio .* a C\+\+ compiler and ninja"),
        zero3_loading(settings),
    ):
        pass
