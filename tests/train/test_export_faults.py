"""What cannot be exported is said in one line, and leaves no folder under its final name."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sumzero.config import Lora
from sumzero.errors import ConfigError, RunError
from sumzero.runfile import as_dict
from sumzero.runfolder import RunFolder, alone
from sumzero.train import checkpoint
from sumzero.train.convert import convert
from sumzero.train.examples import check_prepared
from sumzero.train.export import export
from sumzero.train.shards import checksum
from sumzero.train.zero_shards import ZeroShards


def test_what_cannot_be_exported_is_said(case):
    whole, adapted = case("tied"), case("lora")
    with pytest.raises(ConfigError, match=r"--adapter: the run trains the whole model"):
        export(whole.config, form="adapter")
    for name in ("step-9", "best", "../checkpoints/step-000002"):
        with pytest.raises(RunError, match=r"no whole checkpoint .* \(there: step-000002\)"):
            export(whole.config, name)
    with pytest.raises(RunError, match=r"no whole checkpoint \(there: none\)"):
        export(replace(whole.config, name="other"))
    lora = replace(adapted.config.train.lora, rank=2)
    other = replace(adapted.config, train=replace(adapted.config.train, lora=lora))
    with pytest.raises(RunError, match=r"was trained with train\.lora = \{'rank': 3"):
        export(other)
    assert export(whole.config, "step-2", form="merge").is_dir()


@pytest.fixture
def damaged(case, tmp_path):
    """A copy of a run whose checkpoint may be changed, and its two shards."""

    def copy(name):
        one = case(name)
        root = tmp_path / name
        shutil.copytree(one.folder.root, root)  # follows the link to the checkpoint
        config = replace(one.config, runs=str(root.parent), name=root.name)
        step = root / "checkpoints" / "step-000002"
        return config, step, sorted(step.glob("*optim_states.pt"))

    return copy


def test_a_damaged_or_missing_shard_is_named_and_the_export_of_before_stays(damaged):
    config, step, shards = damaged("tied")
    before = load_file(export(config) / "model.safetensors")
    name, content = shards[1].name, shards[1].read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1  # amid the values
    half = len(content) // 2
    for damage, message in (
        (bytes(flipped), rf"damaged \({name} is not what was written"),
        (content[:half], rf"damaged \({name} has {half} bytes in place of {len(content)}\)"),
        (None, rf"damaged \({name} is missing\)"),
    ):
        shards[1].unlink() if damage is None else shards[1].write_bytes(damage)
        with pytest.raises(RunError, match=rf"{message}.*; export another checkpoint with"):
            export(config)
    after = load_file(step.parents[1] / "export" / "model.safetensors")
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not list(step.parents[1].glob("export.*"))


def test_the_newest_is_exported_and_the_best_where_it_is_called_for(damaged, caplog):
    config, step, _ = damaged("tied")
    newest = step.with_name("step-001000")
    shutil.copytree(step, newest)
    export(config)
    assert "the best" not in caplog.text
    checkpoint.point(step.parent, "best", step.name)
    checkpoint.point(step.parent, "latest", newest.name)
    said = "step-001000 is the newest and step-000002 the best: --checkpoint best exports that"
    for name, exported in (
        (None, newest),
        ("best", step),
        ("2", step),
        ("step-1000", newest),
        ("latest", newest),
    ):
        caplog.clear()
        made = export(config, name)
        assert json.loads((made / "export.json").read_text())["checkpoint"] == exported.name
        assert (said in caplog.text) == (name is None)
    with pytest.raises(RunError, match=r"step-000003 \(there: step-000002, .*, best, latest\)"):
        convert(config, "3")


@pytest.mark.parametrize(
    ("name", "form", "weight"),
    [("tied", None, "embed_tokens"), ("lora", "merge", "q_proj"), ("lora", "adapter", "lora_A")],
)
def test_a_weight_that_is_not_finite_in_the_dtype_is_refused(damaged, name, form, weight):
    config, step, shards = damaged(name)

    def begin_with(value):
        shard = torch.load(shards[0], weights_only=False)
        shard["optimizer_state_dict"]["fp32_flat_groups"][0].data[0] = value
        torch.save(shard, shards[0])
        manifest = json.loads((step / "sumzero.json").read_text())
        about = {"bytes": shards[0].stat().st_size, "xxh3": checksum(shards[0])}
        manifest["checkpoint"]["files"][shards[0].name] = about
        (step / "sumzero.json").write_text(json.dumps(manifest))

    begin_with(1e9)
    too_large = rf"{weight}.* too large for float16: take --dtype bfloat16 or float32"
    with pytest.raises(RunError, match=too_large):
        export(config, form=form, dtype="float16")
    assert export(config, form=form, dtype="bfloat16").is_dir()
    begin_with(float("nan"))
    with pytest.raises(RunError, match=rf"{weight}.* not finite; export another checkpoint"):
        export(config, form=form)


def test_an_export_that_is_under_way_is_not_disturbed_by_another(case):
    whole, adapted = case("untied"), case("lora")

    def another(folder):
        with pytest.raises(RunError, match="another `sumzero export` is at work there; wait"):
            export(whole.config)
        assert folder.is_dir()
        with alone(whole.folder.root, "training"):  # which does not wait for it
            pass

    assert (export(whole.config, check=another) / "model.safetensors").is_file()
    made = export(adapted.config, check=lambda _: export(adapted.config, form="adapter") and None)
    assert made.is_dir()


def test_a_checkpoint_that_training_removes_meanwhile_is_told_as_that(damaged, monkeypatch):
    config, step, _ = damaged("tied")

    def removed(*arguments):  # as `Saver` prunes, once the files were found whole
        step.rename(step.with_name("step-000002.partial"))
        return check_prepared(*arguments)

    monkeypatch.setattr("sumzero.train.export.check_prepared", removed)
    with pytest.raises(RunError, match="step-000002: removed while it was read; export a newer"):
        export(config)


def test_shards_that_do_not_fit_together_are_refused(damaged):
    _, step, shards = damaged("tied")
    ZeroShards(step)
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=rf"{shards[1].name}: damaged: .*; export another"):
        ZeroShards(step)
    shards[1].unlink()
    with pytest.raises(RunError, match="there are 1 shards of 2 ranks"):
        ZeroShards(step)
    shards[0].unlink()
    with pytest.raises(RunError, match=r"no \*_optim_states\.pt"):
        ZeroShards(step)


def test_a_checkpoint_without_an_adapter_or_with_one_of_another_shape_is_refused(damaged):
    config, step, _ = damaged("lora")
    state = json.loads((step / "sumzero.json").read_text())
    for lora, message in (
        (
            Lora(rank=3, dropout=0.1, targets=("q_proj",)),
            "has 24 adapters that train.lora does not",
        ),
        (Lora(rank=5, dropout=0.1), r"lora_A\.default\.weight has the shape \[3, 32\] instead of"),
    ):
        other = replace(config, train=replace(config.train, lora=lora))
        (step / "sumzero.json").write_text(json.dumps(state | {"train": as_dict(other.train)}))
        with pytest.raises(RunError, match=message):
            export(other)
    plain = replace(config, train=replace(config.train, lora=None))
    (step / "sumzero.json").write_text(json.dumps(state | {"train": {}}))
    with pytest.raises(RunError, match=r"not a checkpoint of LlamaForCausalLM as config\.json"):
        export(plain)


def test_a_folder_that_fails_its_check_does_not_get_its_name(case):
    one = case("untied")
    shutil.rmtree(one.folder.export, ignore_errors=True)

    def refuse(folder):
        assert (folder / "contract.json").is_file()
        raise RunError("not this one")

    with pytest.raises(RunError, match="not this one"):
        export(one.config, check=refuse)
    assert not list(one.folder.root.glob("export*"))


def test_nothing_that_a_checkpoint_names_is_run(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"module": Code()}, tmp_path / "mp_rank_00_model_states.pt")
    with pytest.raises(RunError, match="holds what is not read from a checkpoint"):
        ZeroShards(tmp_path)


# Runs in a mount namespace of its own: exports onto disks too small, and again with room made.
ON_SMALL_DISKS = """
import json, shutil, subprocess, sys
from pathlib import Path

from sumzero.errors import guarded
from sumzero.runfile import load
from sumzero.train.export import export

disk, run, results = Path(sys.argv[1]), Path(sys.argv[2]), {}


def tried():
    config = load(disk / run.name / "config.toml", [f"runs={disk}", f"name={run.name}"])
    code = guarded(lambda: export(config, shard_size=60_000) and 0)
    return code, sorted(x.name for x in (disk / run.name).glob("export*"))


for extra in (4, 60, 150):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], check=True)
    shutil.copytree(run, disk / run.name)
    du = subprocess.run(["du", "-sk", disk], capture_output=True, check=True)
    used = int(du.stdout.split()[0])
    subprocess.run(["mount", "-o", f"remount,size={used + extra}k", disk], check=True)
    full = tried()
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    results[extra] = [full, tried()]
    subprocess.run(["umount", disk], check=True)
print(json.dumps(results))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(namespace, damaged):
    command, disk = namespace
    config, step, _ = damaged("tied")
    root = step.parents[1]
    shutil.rmtree(root / "export", ignore_errors=True)
    RunFolder(root).begin(config)
    done = subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", ON_SMALL_DISKS, str(disk), str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert len(results) == 3
    for full, again in results.values():
        assert full == [2, []]
        assert again == [0, ["export"]]
    said = [line for line in done.stderr.splitlines() if line.startswith("sumzero: ")]
    assert len(said) == 3
    assert all("No space left on device" in line for line in said)
