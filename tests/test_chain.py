"""The chain of a run's jobs, without a Slurm: what each waits for, and what it depends on."""

import json

import pytest

from sumzero.chain import Shape, Step, chain, lacks
from sumzero.cli import main
from sumzero.errors import ConfigError
from sumzero.jobs import STEPS
from sumzero.runfile import check
from sumzero.runfolder import RunFolder

ROWS = {"path": "rows.jsonl"}
SHAPE = Shape(nodes=2, gpus_per_node=8, ranks_per_node=8, shards=4)


def settings(runs, **more):
    values = {"name": "run", "runs": str(runs), "data": {"train": ROWS, "test": ROWS}} | more
    return check(values, "test")


def names(steps):
    return [step.name for step in steps]


def with_checkpoint(runs, ranks):
    folder = RunFolder(runs / "run").checkpoints / "step-000004"
    folder.mkdir(parents=True)
    state = {"step": 4, "checkpoint": {"layout": {"ranks": ranks}}}
    (folder / "sumzero.json").write_text(json.dumps(state))


def test_each_step_waits_for_the_last_one_before_it_that_has_a_job(tmp_path):
    steps = {step.name: step for step in chain(settings(tmp_path), STEPS, SHAPE, False)}
    assert steps["prepare"].after({}) == ""
    assert steps["train"].after({"prepare": "1", "convert": "2"}) == "afterok:2"
    assert steps["score"].after({"train": "3"}) == "afterok:3"


def test_scoring_checkpoints_starts_with_the_training_and_the_export_waits_for_both(tmp_path):
    data = {"train": ROWS, "test": ROWS, "validation": ROWS}
    config = settings(tmp_path, data=data, train={"save_every": 5})
    steps = {step.name: step for step in chain(config, STEPS, SHAPE, True)}
    assert list(steps) == ["prepare", "train", "score-checkpoints", *STEPS[2:]]
    jobs = {"prepare": "1", "train": "2"}
    assert steps["score-checkpoints"].after(jobs) == "after:2"
    jobs["score-checkpoints"] = "3"
    assert steps["export"].after(jobs) == "afterok:2,afterok:3"
    assert steps["export"].arguments == ("--checkpoint", "best-rouge")
    assert steps["generate"].after(jobs | {"export": "4"}) == "afterok:4"


@pytest.mark.parametrize(("ranks", "converts"), [(16, False), (8, True)])
def test_a_checkpoint_of_other_ranks_is_converted_before_the_training(tmp_path, ranks, converts):
    with_checkpoint(tmp_path, ranks)
    steps = names(chain(settings(tmp_path), STEPS, SHAPE, False))
    assert ("convert" in steps) == converts
    assert not converts or steps.index("convert") == steps.index("train") - 1


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"seed": 1}, "prepare"),
        ({"data": {"train": {"path": "more.jsonl"}, "test": ROWS}}, "prepare"),
        ({"data": {"train": ROWS, "test": {"path": "more.jsonl"}}}, "generate"),
        ({"model": {"dtype": "float32"}}, "prepare"),
        ({"train": {"lr": 1e-3}}, "train"),
        ({"generate": {"max_new_tokens": 9}}, "generate"),
        ({"score": {"bootstrap": 200}}, "score"),
    ],
)
def test_a_setting_changes_the_steps_whose_results_depend_on_it(tmp_path, more, first):
    before = chain(settings(tmp_path), STEPS, SHAPE, False)
    after = chain(settings(tmp_path, **more), STEPS, SHAPE, False)
    changed = [x.name for x, y in zip(before, after, strict=True) if x.settings != y.settings]
    assert changed == list(STEPS[STEPS.index(first) :])


def test_gpus_are_asked_for_where_there_are_any(tmp_path):
    config = settings(tmp_path, generate={"tensor_parallel": 2})
    options = {step.name: step.options for step in chain(config, STEPS, SHAPE, False)}
    assert options["train"] == ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8")
    assert options["export"] == ("--gpus-per-node=2",)
    assert options["generate"] == ("--array=0-3", "--gpus-per-node=2")
    none = Shape(nodes=2, gpus_per_node=0, ranks_per_node=4, shards=1)
    assert not any(
        "gpus" in option for step in chain(config, STEPS, none, False) for option in step.options
    )


def test_all_faults_of_a_chain_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        chain(settings(tmp_path, data={}), ("prepare", "score"), SHAPE, True)
    text = "\n".join(error.value.problems)
    for part in ("data.train: ", "data.test: ", "data.validation.path", "save_every", "add it to"):
        assert part in text


def test_what_the_first_step_needs_is_looked_for(tmp_path):
    folder = RunFolder(tmp_path / "run")
    train = Step("train", (), (), "")
    assert lacks([Step("prepare", (), (), ""), train], folder) is None
    assert "add prepare to --steps" in str(lacks([train], folder))
    folder.data.mkdir(parents=True)
    folder.data_report.write_text("{}")
    assert lacks([train], folder) is None
    export = Step("export", (), (), "")
    assert "no checkpoint for `export`; add train" in str(lacks([export], folder))
    assert "no checkpoint for `export`" in str(lacks([Step("prepare", (), (), ""), export], folder))
    with_checkpoint(tmp_path, 2)
    assert lacks([export], folder) is None


def test_scoring_checkpoints_needs_validation_records(tmp_path, capsys):
    file = tmp_path / "run.toml"
    file.write_text(f'runs = "{tmp_path}/runs"\n')
    assert main(["score-checkpoints", str(file)]) == 2
    assert "data.validation: no records" in capsys.readouterr().err
