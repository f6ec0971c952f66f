import json
import threading
import tomllib
from pathlib import Path

import pytest

from sumzero.config import Model, RunConfig
from sumzero.errors import RunError
from sumzero.runfile import check
from sumzero.runfolder import (
    RunFolder,
    alone,
    atomic_file,
    atomic_folder,
    is_held,
    read_json,
    read_jsonl,
    write_json,
)


class Stop(Exception):
    """What ends a writer in the middle."""


def stop_in_the_middle(file):
    with atomic_file(file) as out:
        out.write("half of it")
        out.flush()
        raise Stop


def tree(folder):
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_file_appears_when_it_is_whole_and_not_before(tmp_path):
    file = tmp_path / "deep" / "er" / "file.txt"
    with atomic_file(file) as out:
        out.write("first ")
        out.flush()
        assert not file.exists()
        out.write("„last“")
    assert file.read_text(encoding="utf-8") == "first „last“"
    assert list(file.parent.iterdir()) == [file]


def test_an_exception_leaves_no_file(tmp_path):
    with pytest.raises(Stop):
        stop_in_the_middle(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file_as_it_was(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(Stop):
        stop_in_the_middle(file)
    assert tree(tmp_path) == {"file": "old"}


def test_text_that_cannot_be_written_leaves_the_old_file_as_it_was(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_file(file) as out:
        out.write("\ud800")
    assert tree(tmp_path) == {"file": "old"}


def test_what_a_killed_writer_left_does_not_stay(tmp_path):
    (tmp_path / "file.partial").write_text("half of an earlier one, and longer")
    with atomic_file(tmp_path / "file") as out:
        out.write("new")
    assert tree(tmp_path) == {"file": "new"}


def test_a_folder_appears_when_it_is_whole_and_not_before(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with atomic_folder(folder) as partial:
        (partial / "one").write_text("1")
        assert not folder.exists()
    assert tree(tmp_path) == {"deep/folder/one": "1"}


def test_a_new_folder_replaces_all_of_the_old_one(tmp_path):
    folder = tmp_path / "folder"
    for name in ("old", "new"):
        with atomic_folder(folder) as partial:
            (partial / name).write_text(name)
    assert tree(tmp_path) == {"folder/new": "new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("old", [{}, {"folder/a": "1", "folder/b/c": "2"}], ids=["new", "there"])
def test_an_exception_leaves_the_folder_as_it_was(tmp_path, old):
    for name, text in old.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def stop():
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "a").write_text("half")
            raise Stop

    with pytest.raises(Stop):
        stop()
    assert tree(tmp_path) == old
    assert len(list(tmp_path.iterdir())) == len({name.split("/")[0] for name in old})


def test_what_a_killed_writer_left_does_not_get_into_the_folder(tmp_path):
    (tmp_path / "folder.partial").mkdir()
    (tmp_path / "folder.partial" / "stale").write_text("x")
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "fresh").write_text("y")
    assert tree(tmp_path) == {"folder/fresh": "y"}


def test_json_comes_back(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": {"“é”": "漢字"}}
    write_json(tmp_path / "sub" / "value.json", value)
    assert read_json(tmp_path / "sub" / "value.json", "sumzero x") == value
    text = (tmp_path / "sub" / "value.json").read_text(encoding="utf-8")
    assert "漢字" in text
    assert text.endswith("}\n")
    assert text.index('"b"') < text.index('"a"')


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    file = tmp_path / "value.json"
    write_json(file, {"old": 1})
    with pytest.raises(TypeError):
        write_json(file, {"new": object()})
    assert tree(tmp_path) == {"value.json": json.dumps({"old": 1}, indent=2) + "\n"}


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path):
    file = tmp_path / "plan.json"
    with pytest.raises(RunError) as caught:
        read_json(file, "sumzero prepare")
    assert str(caught.value) == f"{file} is missing; run `sumzero prepare` first"


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe"])
def test_a_damaged_file_names_the_stage_that_makes_it_again(tmp_path, content):
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    with pytest.raises(RunError) as caught:
        read_json(file, "sumzero prepare")
    message = str(caught.value)
    assert message.startswith(f"{file} is damaged (")
    assert message.endswith("; run `sumzero prepare` again")


def test_lines_that_are_damaged_in_any_way_are_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n\0\0\0\0\n\n{"a": "\xc3\xa9"}\n{"a": "\xc3')
    assert read_jsonl(file) == [{"a": 1}, {"a": "é"}]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_run_folder_is_named_by_the_settings_and_made_on_the_first_write(tmp_path):
    config = RunConfig(name="mine", runs=str(tmp_path / "runs"))
    folder = RunFolder.of(config)
    assert folder.root == tmp_path / "runs" / "mine"
    assert not folder.root.exists()
    folder.begin(config)
    assert [file.name for file in folder.root.iterdir()] == ["config.toml"]
    written = tomllib.loads(folder.config.read_text(encoding="utf-8"))
    assert check(written, "config.toml") == config


def test_the_settings_of_a_run_are_those_it_was_begun_with_last(tmp_path):
    for seed in (1, 2):
        config = RunConfig(name="mine", runs=str(tmp_path), seed=seed)
        RunFolder.of(config).begin(config)
    written = tomllib.loads((tmp_path / "mine" / "config.toml").read_text(encoding="utf-8"))
    assert written["seed"] == 2


def test_every_path_lies_in_the_run_folder(tmp_path):
    folder = RunFolder(tmp_path)
    paths = [value for value in vars(folder).values() if isinstance(value, Path)]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_a_model_made_from_scratch_lies_in_the_run_folder(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.model_path(RunConfig(name="a")) == str(tmp_path / "model")
    hub = RunConfig(name="a", model=Model(path="org/model"))
    assert folder.model_path(hub) == "org/model"


def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path):
    with (
        alone(tmp_path / "run", "sumzero prepare"),
        pytest.raises(RunError, match="another `sumzero prepare` is at work there"),
        alone(tmp_path / "run", "sumzero prepare"),
    ):
        pass
    with alone(tmp_path / "run", "sumzero prepare"):
        pass


def test_a_folder_that_is_held_is_waited_for_as_long_as_asked(tmp_path):
    held, release = threading.Event(), threading.Event()

    def hold():
        with alone(tmp_path, "training"):
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    assert is_held(tmp_path, "training")
    with (
        pytest.raises(RunError, match="another `training` is at work"),
        alone(tmp_path, "training"),
    ):
        pass
    threading.Timer(0.2, release.set).start()
    with alone(tmp_path, "training", patience=30):
        assert is_held(tmp_path, "training")
    holder.join()
    assert not is_held(tmp_path, "training")
    assert not is_held(tmp_path / "absent", "training")
