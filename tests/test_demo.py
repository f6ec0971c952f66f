import json

import pytest

from sumzero.demo import settings, split_records, verdict, with_paths
from sumzero.errors import ConfigError, DataError
from sumzero.records import read_all
from sumzero.runfile import load


def _write(file, num_rows):
    with file.open("w") as out:
        for index in range(num_rows):
            # Every text stands there twice, so that a careless split would divide a pair.
            row = {"id": index, "text": f"Text number {index // 2}. More.", "summary": "Short."}
            out.write(json.dumps(row) + "\n")


def test_a_users_records_are_split_by_document(tmp_path):
    _write(tmp_path / "my.jsonl", 100)
    config = settings("my.jsonl", ["data.train.document=text", "data.train.targets=summary"])
    split_records(config, str(tmp_path / "my.jsonl"), tmp_path / "records")
    texts = {}
    for split in ("train", "test"):
        file = tmp_path / "records" / f"{split}.jsonl"
        run = tmp_path / "run.toml"
        run.write_text(f'data.train.path = "{file}"')
        records, rejects = read_all(load(run).data.train, need_targets=True)
        assert not rejects
        texts[split] = [record.document for record in records]
    assert len(texts["train"]) + len(texts["test"]) == 100
    assert 10 <= len(texts["test"]) <= 12
    assert not set(texts["train"]) & set(texts["test"])


def test_too_few_records_are_refused(tmp_path):
    _write(tmp_path / "my.jsonl", 2)
    config = settings("my.jsonl", ["data.train.document=text", "data.train.targets=summary"])
    with pytest.raises(DataError, match=r"my\.jsonl: 2 records are too few to split"):
        split_records(config, str(tmp_path / "my.jsonl"), tmp_path / "records")


def test_the_split_keeps_the_task_the_language_and_unanswerable_questions(tmp_path):
    rows = [
        {"text": f"Text {index}.", "ask": "What?", "lang": "cs", "answers": ["It."][: index % 3]}
        for index in range(30)
    ]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    columns = "document=text targets=answers instruction=ask task=answer language_column=lang"
    config = settings("my.json", [f"data.train.{column}" for column in columns.split()])
    split_records(config, str(tmp_path / "my.json"), tmp_path / "records")
    placed = with_paths(config, tmp_path / "records").data
    train, test = (read_all(split, need_targets=True)[0] for split in (placed.train, placed.test))
    assert len(train) + len(test) == 30
    assert {record.instruction for record in train} == {"What?"}
    assert {record.language for record in train} == {"cs"}
    assert {record.targets for record in train} == {(), ("It.",)}


def test_the_demo_takes_one_source():
    with pytest.raises(ConfigError, match=r"demo: data\.train: the demo takes one source"):
        settings("my.jsonl", ['data.train=[{path = "a"}, {path = "b"}]'])


def test_a_misspelt_setting_is_refused():
    with pytest.raises(ConfigError, match=r"demo: train\.step: no such setting"):
        settings(None, ["train.step=5"])


@pytest.mark.parametrize(("finetuned", "won"), [(30.0, True), (20.0, False), (19.0, False)])
def test_the_verdict_says_plainly_who_won(finetuned, won):
    values = {"untrained": 1.0, "lead1": 20.0, "finetuned": finetuned}
    scores = {
        "systems": {name: {"metrics": {"rougeL": {"value": v}}} for name, v in values.items()}
    }
    found, sentence = verdict(scores)
    assert found is won
    assert ("NOT above" in sentence) is not won
    assert f"{finetuned:.2f}" in sentence
    assert "20.00" in sentence
