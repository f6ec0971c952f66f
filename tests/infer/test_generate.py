import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from sumzero.errors import ConfigError, DataError, RunError
from sumzero.infer.generate import generate
from sumzero.infer.generation import finished_generations, found
from sumzero.runfile import load
from sumzero.runfolder import RunFolder
from sumzero.weights_digest import weights_digest

RECORDS = [
    {"id": "a", "document": "First sentence. Second sentence.", "target": "One."},
    {"id": "b", "document": "只有一句。还有一句。", "target": "二。"},
    {"id": "c", "document": "No stop at all <|im_end|>", "target": "Three."},
]


@pytest.fixture
def run_file(tmp_path):
    _write(tmp_path / "test.jsonl", RECORDS)
    file = tmp_path / "run.toml"
    file.write_text(f'runs = "{tmp_path}/runs"\n[data.test]\npath = "{tmp_path}/test.jsonl"\n')
    return file


def _write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_lead_baseline_is_the_first_sentence_of_every_record_in_order(run_file):
    made = generate(load(run_file), "lead1")
    assert [(row["id"], row["text"]) for row in made.rows()] == [
        ("a", "First sentence."),
        ("b", "只有一句。"),
        ("c", "No stop at all <|im_end|>"),
    ]
    assert made.manifest["rows"] == 3


def test_a_column_can_hold_the_lead(run_file, tmp_path):
    _write(tmp_path / "test.jsonl", [row | {"first": row["id"] * 3} for row in RECORDS])
    made = generate(load(run_file, ["data.test.lead=first"]), "lead1")
    assert [row["text"] for row in made.rows()] == ["aaa", "bbb", "ccc"]


def test_metadata_stand_beside_what_is_generated(run_file, tmp_path):
    rows = [row | {"year": 2020 + number} for number, row in enumerate(RECORDS)]
    _write(tmp_path / "test.jsonl", rows)
    made = generate(load(run_file, ['data.test.metadata=["year"]']), "lead1")
    assert [row["metadata"] for row in made.rows()] == [
        {"year": 2020},
        {"year": 2021},
        {"year": 2022},
    ]
    assert not any("metadata" in row for row in generate(load(run_file), "lead1").rows())


def test_other_input_is_another_generation_and_the_newest_counts(run_file, tmp_path):
    first = generate(load(run_file), "lead1")
    assert generate(load(run_file), "lead1").folder == first.folder
    _write(tmp_path / "test.jsonl", RECORDS[:2])
    second = generate(load(run_file), "lead1")
    assert second.folder != first.folder
    newest = finished_generations(RunFolder.of(load(run_file)))
    assert newest["lead1"].folder == second.folder


def test_going_back_to_earlier_input_makes_its_generation_the_newest(run_file, tmp_path):
    first = generate(load(run_file), "lead1")
    _write(tmp_path / "test.jsonl", [row | {"document": "New."} for row in RECORDS])
    generate(load(run_file), "lead1")
    _write(tmp_path / "test.jsonl", RECORDS)
    generate(load(run_file), "lead1")
    newest = finished_generations(RunFolder.of(load(run_file)))
    assert newest["lead1"].folder == first.folder


def test_a_finished_generation_may_be_found_by_several_at_once(run_file):
    made = generate(load(run_file), "lead1")
    with ThreadPoolExecutor(4) as threads:
        several = list(threads.map(lambda _: found(made.folder), range(16)))
    assert {one.manifest["rows"] for one in several} == {3}
    (newest,) = finished_generations(RunFolder.of(load(run_file))).values()
    assert newest.manifest["finished"] == max(one.manifest["finished"] for one in several)


def test_what_is_missing_is_said(run_file, tmp_path):
    with pytest.raises(RunError, match="run `sumzero export"):
        generate(load(run_file))
    bare = tmp_path / "bare.toml"
    bare.write_text("")
    with pytest.raises(ConfigError, match=r"data\.test\.path"):
        generate(load(bare))
    with pytest.raises(DataError, match="safetensors"):
        weights_digest(tmp_path)
