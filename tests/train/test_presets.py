"""Every preset on two real ranks against torch's AdamW in one process, and its settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sumzero.config import Lora, Model, Train
from sumzero.errors import ConfigError
from sumzero.ranks import Ranks
from sumzero.train.layout import zero_stage
from sumzero.train.zero_settings import deepspeed_settings, swap_folder

from .tiny_models import tiny_model

FOLDER = Path(__file__).parents[2] / "ds_configs"
ONE = Ranks()
PRESETS = ["zero2", "zero3", "zero3_offload", "zero3_ulysses"]
# ZeRO of a user's own; hpZ's groups are those of the process, so it is last and once.
FILES = {
    "zero1": {"stage": 1},
    "zero2_offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "hpz": {"stage": 3, "zero_hpz_partition_size": 2, "stage3_param_persistence_threshold": 0},
}
CASES = [
    *((name, dtype, "all") for name in PRESETS[:3] for dtype in ("float32", "bfloat16")),
    *((name, "float32", "all") for name in ("zero3_ulysses", "zero2_offload", "zero1")),
    ("zero1", "bfloat16", "all"),
    # An empty group of parameters: none decays, or all do.
    *((name, "float32", part) for name in PRESETS[:3] for part in ("matrices", "norms", "lora")),
    ("zeropp", "float32", "all"),
    ("hpz", "float32", "all"),
]
NVME = [("zero3_nvme", dtype, "all") for dtype in ("float32", "bfloat16")]


def launch(folder, cases, model, hidden_size):
    """By case, what presets_on_ranks.py found on two ranks."""
    for name, zero in FILES.items():
        (folder / f"{name}.json").write_text(json.dumps({"zero_optimization": zero}))
    own = {name: str(folder / f"{name}.json") for name in FILES}
    model.save_pretrained(folder / "model")
    listed = {
        " ".join(case): {
            "deepspeed": own.get(case[0], case[0]),
            "dtype": case[1],
            "part": case[2],
            "model": str(folder / "model"),
            "hidden_size": hidden_size,
            "bad": "nan" if case[1] == "float32" else "inf",
        }
        for case in cases
    }
    (folder / "cases.json").write_text(json.dumps(listed))
    script = Path(__file__).with_name("presets_on_ranks.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(script, folder),
        ],
        env={
            **os.environ,
            **{"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        },
        capture_output=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    # A bias of keys has no gradient but rounding, which Adam would scale up.
    model = tiny_model("llama", attention_bias=False)
    return launch(tmp_path_factory.mktemp("presets"), CASES, model, 32)


@pytest.fixture(scope="module")
def found_on_nvme(tmp_path_factory):
    """Of a model with partitions of 1 MiB, the least that DeepSpeed swaps."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible():
        pytest.skip("DeepSpeed's async_io needs libaio and its headers (libaio-dev)")
    width = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 4200, "head_dim": 32}
    width |= {"attention_bias": False}
    folder = tmp_path_factory.mktemp("nvme")
    return launch(folder, NVME, tiny_model("llama", **width), 256) | {"folder": folder}


def check_steps(found, case):
    """A step, one that is skipped and leaves no trace, and another."""
    report = found[" ".join(case)]
    assert report["skipped"] == [0, 1, 1]
    assert report["unchanged"]
    assert report["changed"]  # the third step did work
    finite, bad, last = report["norms"]
    assert report["first_norm"] == 0.0
    assert bad in (float("inf"), float("-inf")) or bad != bad
    assert finite > 0
    assert last > 0
    if case[1] == "float32":
        # Float32 sums in another order; a gradient's size is divided out by Adam, so that its
        # rounding shows where it is near 0. That Adam has counted two steps, not three, shows.
        first_wanted, last_wanted = report["wanted_norms"]
        assert finite == pytest.approx(first_wanted, rel=1e-5)
        assert last == pytest.approx(last_wanted, rel=1e-4)  # after an update, as the weights are
        assert max(report["distances"]) < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if case[0] != "zeropp"], ids=" ".join)
def test_a_preset_steps_as_plain_torch_and_skips_what_is_not_finite(found, case):
    check_steps(found, case)


@pytest.mark.slow  # building the op takes minutes
@pytest.mark.parametrize("case", NVME, ids=" ".join)
def test_nvme_steps_as_plain_torch_and_skips_what_is_not_finite(found_on_nvme, case):
    check_steps(found_on_nvme, case)


@pytest.mark.slow
def test_nvme_holds_the_state_while_training_and_nothing_after(found_on_nvme):
    assert all(report["swapped"] for name, report in found_on_nvme.items() if name != "folder")
    assert not (found_on_nvme["folder"] / "swap").exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", NVME, ids=" ".join)
def test_a_checkpoint_of_nvme_restores_every_bit_and_can_be_exported(found_on_nvme, case):
    report = found_on_nvme[" ".join(case)]
    assert report["restored"]
    assert report["exported"]


def test_quantizing_without_a_cuda_device_is_refused(found):
    assert "quantizes on CUDA devices only" in found["zeropp float32 all"]["error"]


def test_the_stage_of_an_engine_can_be_asked_for(found):
    stages = {name: report["stage"] for name, report in found.items() if "stage" in report}
    assert stages["zero1 float32 all"] == 1
    assert stages["zero2 bfloat16 all"] == 2
    assert stages["zero3_offload float32 all"] == 3


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_presets_hold_zero_offload_and_communication_only(file):
    preset = json.loads(file.read_text())
    assert preset.keys() <= {"zero_optimization", "aio"}
    assert f"| `{file.stem}` |" in (FOLDER / "README.md").read_text()
    unexplained = [
        key
        for key in preset["zero_optimization"]
        if f"`{key}`" not in (FOLDER / "README.md").read_text()
    ]
    assert unexplained == []


def settings(name, who=ONE, hidden_size=4096, swap=None, **train):
    return deepspeed_settings(
        Model(), Train(deepspeed=name, **train), 1, who=who, hidden_size=hidden_size, swap=swap
    )


def test_sizes_follow_the_model_up_to_a_limit():
    zero = settings("zero3", hidden_size=1024)["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["stage3_prefetch_bucket_size"] == 12 * 1024**2
    assert zero["stage3_param_persistence_threshold"] == 10 * 1024
    assert settings("zero2")["zero_optimization"]["allgather_bucket_size"] == 200_000_000
    adapters = settings("zero3", lora=Lora(rank=16))["zero_optimization"]
    assert adapters["stage3_param_persistence_threshold"] == 4 * 16 * 4096


def test_hpz_takes_the_ranks_of_a_node():
    zero = settings("zeropp", who=Ranks(0, 16, 0, 8))["zero_optimization"]
    assert zero["zero_hpz_partition_size"] == 8
    with pytest.raises(ConfigError, match="= 8 does not divide the 12 ranks; start equally many"):
        settings("zeropp", who=Ranks(0, 12, 0, 8))


def test_nvme_swaps_into_the_run_folder_or_a_folder_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_DISK", str(tmp_path / "disk"))
    assert swap_folder(settings("zero3_nvme", swap=tmp_path / "swap")) == tmp_path / "swap"
    file = tmp_path / "own.json"
    offload = {"device": "nvme", "nvme_path": "$JOB_DISK/x"}
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "offload_optimizer": offload}}))
    first = swap_folder(settings(str(file), swap=tmp_path / "a" / "swap"))
    second = swap_folder(settings(str(file), swap=tmp_path / "b" / "swap"))
    assert first.parent == second.parent == tmp_path / "disk" / "x"
    assert first != second
    monkeypatch.delenv("JOB_DISK")
    with pytest.raises(ConfigError, match="does not have this variable"):
        settings(str(file), swap=tmp_path / "swap")
    assert zero_stage({}) == 0
