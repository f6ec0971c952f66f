import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sumzero.adapter import open_adapter
from sumzero.errors import DataError, RunError
from sumzero.weights_digest import weights_digest


@pytest.fixture
def base(model_folder, tmp_path):
    """A model that tests may change."""
    return shutil.copytree(model_folder, tmp_path / "base")


@pytest.fixture
def adapter(base, tmp_path):
    """Adapters of one layer of it, with what `sumzero export --adapter` says of them."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder, "adapter_config.json", {"base_model_name_or_path": str(base), "r": 2})
    write(folder, "export.json", {"base_digest": weights_digest(base)})
    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    tensors = {name.format("A"): torch.ones(2, 32), name.format("B"): torch.zeros(64, 2)}
    tensors[name.format("B")][63, 1] = 1e-4
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def write(folder, name, values):
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def test_the_base_is_found_where_its_weights_are_those_trained_on(adapter, base, caplog):
    assert open_adapter(adapter, None) == base
    assert caplog.text == ""


def test_a_base_may_be_moved(adapter, base, tmp_path):
    moved = base.rename(tmp_path / "elsewhere")
    write(adapter, "adapter_config.json", {"base_model_name_or_path": str(moved), "r": 2})
    assert open_adapter(adapter, None) == moved


def test_another_base_is_refused_though_one_weight_alone_differs(adapter, base):
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match="trained on other weights than those of") as caught:
        open_adapter(adapter, None)
    assert str(caught.value).startswith(f"{adapter}: ")
    assert str(base) in str(caught.value)


def test_adapters_that_change_nothing_are_refused(adapter):
    file = adapter / "adapter_model.safetensors"
    tensors = {name: tensor * ("lora_A" in name) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(RunError, match="change nothing: all of their B are zero"):
        open_adapter(adapter, None)


def test_adapters_of_others_say_no_base_and_get_a_warning(adapter, base, caplog):
    (adapter / "export.json").unlink()
    assert open_adapter(adapter, None) == base
    assert "does not say which weights it was trained on" in caplog.text


def test_what_is_missing_is_told(adapter, base):
    shutil.rmtree(base)
    with pytest.raises(DataError, match="base"):
        open_adapter(adapter, None)
    base.mkdir()
    with pytest.raises(DataError, match=r"no \*\.safetensors"):
        open_adapter(adapter, None)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(RunError, match=r"adapter_model\.safetensors is missing"):
        open_adapter(adapter, None)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(RunError, match="run `sumzero export --adapter` first"):
        open_adapter(adapter, None)
