"""Loading by ZeRO-3 on two ranks, started by DeepSpeed's launcher, for every kind of tiny model."""

import json
import subprocess
from pathlib import Path

import pytest

from .tiny_models import TINY, TINY_RECURRENT, tiny_model

RANKS = 2
KINDS = [*TINY, *TINY_RECURRENT]
MANY_EXPERTS = {"hidden_size": 256, "moe_intermediate_size": 256, "num_experts": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for kind in KINDS:
        tiny_model(kind).save_pretrained(folder / "tiny" / kind, max_shard_size="60KB")
    tiny_model("qwen3_moe", num_hidden_layers=20, **MANY_EXPERTS).bfloat16().save_pretrained(
        folder / "large", max_shard_size="30MB"
    )
    return folder


@pytest.fixture(scope="module")
def reports(folder, rank_command):
    arguments, environment = rank_command(
        RANKS, Path(__file__).with_name("loading_on_ranks.py"), folder
    )
    # Freed memory goes back at once, so that what is held is what is in use.
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [
        json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8"))
        for rank in range(RANKS)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_and_buffer_is_that_of_a_plain_model(reports, kind):
    for report in reports:
        seen = report[kind]
        assert seen["split"]
        assert seen["different"] == []
        assert seen["buffers"] == []  # in their own dtype: rotary frequencies are float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_attested_and_one_changed_element_on_one_rank_is_refused(reports, kind):
    for report in reports:
        seen = report[kind]
        for when in ("bfloat16", "loaded", "mended"):
            assert seen[when] == "", when
        name, refusal = seen["changed"]
        assert f"not what the files hold, after loading: {name} (model-0000" in refusal
    assert reports[0][kind] == reports[1][kind]


def test_a_rank_holds_its_share_and_a_few_whole_parameters_at_a_time(reports):
    for report in reports:
        memory = report["memory"]
        assert memory["most"] < memory["whole"] / RANKS + 6 * memory["largest"]
        assert memory["whole"] > 20 * memory["largest"]


def test_they_are_attested_in_the_engine_with_parameters_that_persist_and_without(reports):
    for report in reports:
        none, some = report["engine"]
        assert none == {"persist": [False], "refusal": ""}
        assert some == {"persist": [False, True], "refusal": ""}
