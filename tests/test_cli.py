import json
from pathlib import Path

import pytest

from sumzero import ds_configs
from sumzero.cli import main

ROWS = [{"id": str(index), "document": f"Text {index}.", "target": "Text."} for index in range(3)]


@pytest.fixture
def run_file(tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = tmp_path / "run.toml"
    file.write_text(f"""
        runs = "{tmp_path}/runs"
        [model]
        path = "scratch"
        dtype = "float32"
        scratch = {{ vocab_size = 300, hidden_size = 32, num_layers = 1, num_heads = 2, num_kv_heads = 1, intermediate_size = 32 }}
        [data]
        train.path = "{data}"
        max_length = 128
    """)  # noqa: E501
    return file


def _fault(capsys, *arguments):
    """The one line that a user's fault must give."""
    assert main(list(map(str, arguments))) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("sumzero: ")]
    assert len(said) == 1, lines
    assert not any("Traceback" in line for line in lines)
    return said[0]


def test_every_command_has_help_with_an_example(capsys):
    stages = ("prepare", "plan", "export", "convert", "generate", "score", "report", "status")
    for command in ("demo", "doctor", "run", *stages):
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0
        assert f"example: sumzero {command}" in capsys.readouterr().out


def test_prepare_says_what_became_of_the_rows(run_file, capsys):
    assert main(["prepare", str(run_file)]) == 0
    assert (
        "train: 3 read, 3 kept, 0 rejected\n  3 documents with 3 targets" in capsys.readouterr().out
    )
    runs = run_file.parent / "runs" / "run"
    assert (runs / "data" / "train.arrow").is_file()
    assert (runs / "config.toml").is_file()
    assert (runs / "data" / "rejected.jsonl").read_text() == ""


def test_a_run_folder_serves_as_a_run_file(run_file, capsys):
    assert main(["prepare", str(run_file)]) == 0
    assert main(["prepare", str(run_file.parent / "runs" / "run")]) == 0
    assert "prepared already" in capsys.readouterr().err


def test_a_run_folder_is_used_where_it_lies_now(run_file, capsys, tmp_path):
    assert main(["prepare", str(run_file)]) == 0
    moved = tmp_path / "moved"
    (tmp_path / "runs" / "run").rename(moved)
    assert main(["prepare", str(moved)]) == 0
    assert "prepared already" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "run").exists()


def test_a_folder_without_settings_says_what_to_name(run_file, capsys):
    test = f"data.test.path={run_file.parent / 'train.jsonl'}"
    assert main(["generate", str(run_file), "--system", "lead1", test]) == 0
    capsys.readouterr()
    folder = run_file.parent / "runs" / "run"
    said = _fault(capsys, "compare", folder)
    assert said.startswith(f"sumzero: {folder}: has no config.toml, which `sumzero prepare` writes")
    assert "name the run file" in said


@pytest.mark.parametrize("command", ["score", "report", "explain", "generate", "compare"])
def test_what_is_missing_is_the_run_alone(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command])
    assert done.value.code == 2
    assert capsys.readouterr().err.endswith("arguments are required: RUN\n")


def test_overrides_may_stand_after_an_option(run_file, capsys):
    test = f"data.test.path={run_file.parent / 'train.jsonl'}"
    assert main(["generate", str(run_file), "--system", "lead1", test]) == 0
    assert "3 rows" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["generate", str(run_file), "--sistem", "lead1"])
    assert done.value.code == 2


def test_changed_data_or_settings_are_prepared_again(run_file, capsys):
    assert main(["prepare", str(run_file)]) == 0
    with (run_file.parent / "train.jsonl").open("a") as out:
        out.write('{"id": "new", "document": "More.", "target": "M."}\n')
    assert main(["prepare", str(run_file)]) == 0
    assert "4 kept" in capsys.readouterr().out
    assert main(["prepare", str(run_file), "data.truncation=middle"]) == 0
    assert "prepared already" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.train.path=absent.jsonl"], "absent.jsonl: no such file"),
        (["train.learning_rate=1"], "run.toml: train.learning_rate: no such setting"),
        (["train.lr=fast"], "run.toml: train.lr: "),
        (["data.train.targets=summary"], "no column 'summary' (columns: 'document', 'id'"),
        (["data.max_length=16"], "target too long"),
        (["model.path=./absent"], "./absent: no such model folder"),
        (["nonsense"], "override 'nonsense': write it as section.key=value"),
    ],
)
def test_a_fault_is_one_line_that_names_it(run_file, capsys, overrides, said):
    assert said in _fault(capsys, "prepare", run_file, *overrides)
    assert not list((run_file.parent / "runs").rglob("*.arrow"))
    assert not list((run_file.parent / "runs").rglob("*.partial"))


def test_a_later_stage_names_the_one_before(run_file, capsys):
    assert "no whole checkpoint (there: none); train first" in _fault(capsys, "export", run_file)
    assert "data.test.path" in _fault(capsys, "generate", run_file)
    test = f"data.test.path={run_file.parent / 'train.jsonl'}"
    assert "run `sumzero export RUN.toml` first" in _fault(capsys, "generate", run_file, test)
    assert "run `sumzero generate` first" in _fault(capsys, "score", run_file, test)
    assert "run `sumzero score RUN.toml` first" in _fault(capsys, "report", run_file, test)


def test_rejected_rows_are_listed_and_the_rest_is_kept(run_file, capsys):
    bad = [
        b"{broken\n",
        b'{"id": "1", "document": "again", "target": "twice"}\n',
        b'{"id": "x", "document": " ", "target": "y"}\n',
        b'{"id": "y", "document": "z", "target": ""}\n',
        b'\xff\xfe{"id": "z"}\n',
        json.dumps({"id": "big", "document": "word " * 1_000_000, "target": "Big."}).encode(),
    ]
    with (run_file.parent / "train.jsonl").open("ab") as out:
        out.writelines(bad)
    assert main(["prepare", str(run_file)]) == 0
    output = capsys.readouterr()
    assert "train: 9 read, 4 kept, 5 rejected" in output.out
    assert "train.jsonl:4: not valid JSON" in output.err
    assert "1 documents cut" in output.out
    rejected = run_file.parent / "runs" / "run" / "data" / "rejected.jsonl"
    rows = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert sorted(row["line"] for row in rows) == [4, 5, 6, 7, 8]
    assert all(row["reason"] for row in rows)


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_a_number_of_processes_is_positive(run_file, capsys, number):
    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(run_file), "--processes", number])
    assert ended.value.code == 2
    assert f"--processes: must be a whole number from 1, got {number!r}" in capsys.readouterr().err


def test_plan_shows_every_preset_without_a_gpu(run_file, capsys):
    assert main(["prepare", str(run_file)]) == 0
    capsys.readouterr()
    arguments = ["plan", str(run_file), "--gpus", "2", "--gpu-memory", "24", "--device", "A100"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "2 x NVIDIA A100-SXM4-80GB, 2 a node, 24 GiB each" in output
    for preset in Path(ds_configs.__file__).parent.glob("*.json"):
        assert f"\n{preset.stem}" in output
    assert "recommended" in output
    assert "assumed:" in output
    assert main([*arguments, "--json", "train.gradient_checkpointing=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["settings"]["train.gradient_checkpointing"] is True
    assert found["recommended"]["fits"] is True


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus", "2", "--device", "H1000"], "--device: 'H1000' is unknown; known: NVIDIA A100"),
        (["--gpus", "2"], "is missing; run `sumzero prepare RUN.toml` first"),
        (["--gpus", "2", "model.path=./absent"], "./absent: no model can be loaded"),
        (["--gpus", "64"], "--gpus: 64 GPUs take 64 bins at once"),
    ],
)
def test_a_fault_of_a_plan_is_one_line(run_file, capsys, options, said):
    if "64" in options:
        assert main(["prepare", str(run_file)]) == 0
        capsys.readouterr()
    assert said in _fault(capsys, "plan", run_file, *options)


@pytest.mark.parametrize(
    "number", [("--gpus", "0"), ("--gpu-memory", "nan"), ("--gpu-memory", "0")]
)
def test_what_is_planned_for_is_positive(run_file, capsys, number):
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(run_file), "--gpus", "1", *number])
    assert ended.value.code == 2
    assert "must be " in capsys.readouterr().err
