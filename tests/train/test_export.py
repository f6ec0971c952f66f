"""What is exported is what was trained, from every layout of a checkpoint."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sumzero.config import Lora
from sumzero.errors import ConfigError, RunError
from sumzero.train.adapters import scale
from sumzero.train.export import export
from sumzero.train.zero_shards import ZeroShards

from . import run_cases
from .run_cases import CASES

WHOLE = [name for name in CASES if "lora" not in name]
ADAPTED = [name for name in CASES if "lora" in name]


@pytest.fixture(scope="module")
def case(tmp_path_factory, tokenizer, prepared):
    """By name, a training's run folder; all are trained in one launch."""
    root = tmp_path_factory.mktemp("cases")
    run_cases.train(root, tokenizer, CASES)
    made = {}

    def of(name):
        if name not in made:
            made[name] = run_cases.as_run(root, prepared, name, CASES)
        return made[name]

    return of


def _files(folder):
    """All tensors of a folder's safetensors files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


def _loaded(folder, dtype):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("name", WHOLE)
def test_every_weight_is_what_was_trained(case, name):
    one = case(name)
    dtype = getattr(torch, one.config.model.dtype)
    model = _loaded(export(one.config), "auto")
    assert model.dtype == dtype
    names = {parameter for parameter, _ in model.named_parameters()}
    assert names == one.live.keys()
    for parameter, value in model.named_parameters():
        assert torch.equal(value, one.live[parameter].to(dtype)), parameter


@pytest.mark.parametrize("name", WHOLE)
def test_the_files_are_those_that_save_pretrained_writes(case, name, tmp_path):
    one = case(name)
    made = export(one.config, shard_size=60_000)
    _loaded(made, "auto").save_pretrained(tmp_path)
    found, want = _files(made), _files(tmp_path)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)
    assert ("lm_head.weight" in found) != (CASES[name][0] == "qwen3")  # which ties it
    index = json.loads((made / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in made.glob("*.safetensors"))
    assert len(files) > 1
    assert files == [
        f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)
    ]
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in found.values())
    for key, file in index["weight_map"].items():
        assert key in load_file(made / file)
    ours, theirs = (json.loads((x / "config.json").read_text()) for x in (made, tmp_path))
    assert ours == theirs


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_rounded_once_to_the_dtype_that_is_asked_for(case, dtype):
    one = case("tied bf16")
    for key, value in _files(export(one.config, dtype=dtype)).items():
        assert torch.equal(value, one.live[key].to(getattr(torch, dtype))), key


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_are_merged_as_peft_merges_them(case, name):
    one = case(name)
    lora, dtype = one.config.train.lora, getattr(torch, one.config.model.dtype)
    base = AutoModelForCausalLM.from_pretrained(one.config.model.path, dtype=torch.float64)
    merged = _loaded(export(one.config), "auto")
    changed = 0
    for key, value in merged.named_parameters():
        want = base.get_parameter(key)
        module = key.removesuffix(".weight")
        if f"{module}.lora_A.default.weight" in one.live:
            a, b = (one.live[f"{module}.lora_{x}.default.weight"].double() for x in "AB")
            added = scale(lora) * b @ a
            assert added.abs().max() > 1e-3
            want, changed = want + added, changed + 1
        # One rounding of the sum; in float32 the product is rounded as well.
        torch.testing.assert_close(
            value.double(), want, rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6
        )
    assert changed == len(one.live) / 2


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_alone_are_loaded_by_peft_with_the_values_trained(case, name):
    one = case(name)
    made = export(one.config, form="adapter")
    assert made.name == "adapter"
    base = AutoModelForCausalLM.from_pretrained(one.config.model.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, made)
    found = {key: value for key, value in model.named_parameters() if "lora" in key}
    dtype = getattr(torch, one.config.model.dtype)
    assert len(found) == len(one.live) > 0
    for key, value in one.live.items():
        assert value.numel()
        assert torch.equal(found[f"base_model.model.{key}"], value.to(dtype).float()), key
    assert model.peft_config["default"].base_model_name_or_path == one.config.model.path
    assert AutoTokenizer.from_pretrained(made).chat_template
    assert (made / "contract.json").is_file()


def test_merged_and_loaded_adapters_give_the_same_logits_and_others_than_the_base(case):
    one = case("lora")
    load = AutoModelForCausalLM.from_pretrained
    ids = torch.tensor([[5, 9, 200, 31, 8]])
    base = load(one.config.model.path, dtype=torch.float32)
    with torch.no_grad():
        plain = base(ids).logits
        merged = load(export(one.config)).eval()(ids).logits
        model = PeftModel.from_pretrained(base, export(one.config, form="adapter"))
        adapted = model.eval()(ids).logits
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-4)
    assert (adapted - plain).abs().max() > 0.1


def test_what_cannot_be_exported_is_said(case):
    whole, adapted = case("tied"), case("lora")
    with pytest.raises(ConfigError, match=r"--adapter: the run trains the whole model"):
        export(whole.config, form="adapter")
    with pytest.raises(RunError, match=r"no whole checkpoint step-000009 \(there: step-000002\)"):
        export(whole.config, "step-9")
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
    before = _files(export(config))
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=rf"{shards[1].name}: damaged: .*; export another"):
        export(config)
    shards[1].unlink()
    with pytest.raises(RunError, match="there are 1 shards of 2 ranks"):
        export(config)
    for file in step.glob("*model_states.pt"):
        file.unlink()
    with pytest.raises(RunError, match=r"no \*_model_states\.pt"):
        export(config)
    after = _files(step.parents[1] / "export")
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not list(step.parents[1].glob("export.*"))


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
        from sumzero.runfile import as_dict

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
