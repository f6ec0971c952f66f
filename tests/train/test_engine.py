import json

import pytest

from sumzero.config import Model, Train
from sumzero.errors import ConfigError
from sumzero.train.engine import deepspeed_settings


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"bf16": {"enabled": True}}, r"holds bf16 \(set model\.dtype\)"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            "offloads parameters to NVMe.*offload them to the CPU",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, settings, problem):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=problem):
        deepspeed_settings(Model(), Train(deepspeed=str(file)), 1)
