import json

import pytest

from sumzero.errors import DataError, RunError
from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl
from sumzero.train.examples import TokenStore, check_prepared, store_file


@pytest.fixture
def run_file(tmp_path, model_folder):
    rows = [
        {"id": "several", "document": "A cat sat. " * 4, "target": ["A cat.", "Sat."]},
        {"id": "long", "document": "The dog ran home. " * 200, "target": "A dog."},
        {"id": "too long", "document": "Rain.", "target": "It rained. " * 100},
    ]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "run.toml"
    file.write_text(
        f'runs = "{tmp_path}/runs"\nmodel.path = "{model_folder}"\n'
        f'data.train.path = "{data}"\ndata.max_length = 128\n'
    )
    return file


def _store(config):
    return TokenStore(store_file(RunFolder.of(config), "train"))


def test_every_target_is_a_sequence_of_its_document(run_file):
    config = load(run_file)
    report = prepare(config)
    store = _store(config)
    assert [store.identity(index) for index in range(3)] == ["several", "several", "long"]
    assert len(store) == report["splits"]["train"]["sequences"] == 3
    (first, one), (second, two) = store.sequence(0), store.sequence(1)
    assert first == second
    assert one != two
    for index in range(3):
        prompt, target = store.sequence(index)
        assert store.lengths[index] == len(prompt) + len(target) - 1 <= 128
        assert store.supervised[index] == len(target)


def test_only_documents_are_cut_and_a_target_is_never_lost_silently(run_file, tokenizer):
    config = load(run_file)
    report = prepare(config)["splits"]["train"]
    assert (report["read"], report["kept"], report["rejected"]) == (3, 2, 1)
    assert report["documents_cut"] == 1
    prompt, target = _store(config).sequence(2)
    assert config.data.instruction in tokenizer.decode(prompt)
    assert tokenizer.decode(target, skip_special_tokens=True) == "A dog."
    (reject,) = read_jsonl(RunFolder.of(config).rejected)
    assert (reject["line"], reject["id"]) == (3, "too long")
    assert "target too long" in reject["reason"]


def test_an_over_long_document_can_be_dropped_or_refused(run_file):
    report = prepare(load(run_file, ["data.truncation=drop"]))["splits"]["train"]
    assert (report["kept"], report["rejected"]) == (1, 2)
    with pytest.raises(DataError, match=r"train\.jsonl:2: document too long"):
        prepare(load(run_file, ["data.truncation=error", "name=other"]))


def test_training_refuses_data_prepared_with_other_settings(run_file):
    config = load(run_file)
    folder = RunFolder.of(config)
    with pytest.raises(RunError, match="run `sumzero prepare"):
        check_prepared(config, folder)
    digest = prepare(config)["digest"]
    assert check_prepared(config, folder) == digest
    assert check_prepared(load(run_file, ["data.test.path=x.jsonl"]), folder) == digest
    for other in ("data.instruction=Other", "data.max_prompt=64", "data.train.path=y.jsonl"):
        with pytest.raises(RunError, match=other.split("=")[0].removesuffix(".path")):
            check_prepared(load(run_file, [other]), folder)


def test_a_scratch_model_is_made_anew_for_another_shape(run_file):
    shape = ["model.path=scratch", "model.scratch.vocab_size=300", "model.scratch.num_layers=1"]
    small = [*shape, "model.scratch.hidden_size=32", "model.scratch.intermediate_size=32"]
    config = load(run_file, small)
    folder = RunFolder.of(config).scratch_model
    prepare(config)
    first = (folder / "model.safetensors").stat()
    prepare(config)
    assert (folder / "model.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    prepare(load(run_file, [*small, "model.scratch.intermediate_size=64"]))
    assert (folder / "model.safetensors").stat().st_size > first.st_size
