"""What `sumzero score` says of input that is not whole, and what it scores nevertheless."""

import json

import pytest

from sumzero.errors import DataError, RunError
from sumzero.infer.batches import read_batch
from sumzero.infer.chat import Remote
from sumzero.infer.generate import generate, generate_shard, merge_shards
from sumzero.infer.generation import finished_generations
from sumzero.infer.report import pull_request, report
from sumzero.infer.row_scores import read_row_scores
from sumzero.infer.score import score
from sumzero.infer.shards import Shard
from sumzero.runfile import check
from sumzero.runfolder import RunFolder

ROWS = [
    {"id": "a", "document": "The cat sat on the mat. It slept.", "target": "The cat sat."},
    {"id": "b", "document": "Rain fell. Snow too.", "target": "Rain and snow."},
    {"id": "c", "document": "只有一句。还有2023年。", "target": "只有一句。"},
]


def _config(folder, rows=ROWS, **values):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values.setdefault("data", {"test": {"path": str(file)}})
    return check({"name": "run", "runs": str(folder / "runs"), **values}, "run.toml")


def _answered(config, texts, name="remote"):
    """A model of others that has answered; None is an error, a pair a text and how it ended."""
    lines = []
    for id_, text in texts.items():
        body, reason = text if isinstance(text, tuple) else (text, "stop")
        reply = {"choices": [{"message": {"content": body}, "finish_reason": reason}]}
        response = {"status_code": 400 if text is None else 200, "body": reply}
        lines.append(json.dumps({"custom_id": id_, "response": response}))
    file = RunFolder.of(config).root / "answered.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines))
    read_batch(config, Remote(name), [file])
    merge_shards(config, Remote(name))


def test_records_without_reference_are_counted_and_the_others_scored(tmp_path):
    config = _config(tmp_path, [ROWS[0], {"id": "x", "document": "No reference."}, ROWS[2]])
    generate(config, "lead1")
    found = score(config)["systems"]["lead1"]
    assert (found["rows"], found["without_reference"]) == (2, 1)


def test_no_reference_at_all_is_said(tmp_path):
    config = _config(tmp_path, [{"id": "x", "document": "No reference."}])
    generate(config, "lead1")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no column 'target'.*set data\.SPLIT"):
        score(config)


def test_languages_are_mixed_each_by_its_own(tmp_path):
    config = _config(tmp_path)
    _answered(config, {row["id"]: row["target"] for row in ROWS})
    found = score(config)["systems"]["remote"]["metrics"]
    for name in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert (found[name]["value"], found[name]["low"]) == (100, 100)
        assert "tok:google+stem:no|tok:unicode" in found[name]["signature"]


def test_an_empty_and_a_failed_row_score_nothing_and_are_told_apart(tmp_path):
    config = _config(tmp_path)
    _answered(config, {"a": ("The cat sat.", "length"), "b": "", "c": None})
    scores = score(config)
    found = scores["systems"]["remote"]
    assert found["rows"] == 3
    values = {name: round(metric["value"], 2) for name, metric in found["metrics"].items()}
    assert values["rouge1"] == 33.33
    assert (values["empty"], values["errors"]) == (66.67, 33.33)
    assert values["coverage"] == 100  # of the one that has a text
    slices = {(part["by"], part["is"]): part["rows"] for part in found["slices"]}
    assert slices["cut", "summary"] == 1
    assert slices["cut", "whole"] == 1
    rows = read_row_scores(finished_generations(RunFolder.of(config))["remote"])
    assert rows.columns["failed"].tolist() == [False, False, True]
    assert rows.columns["rouge1"].tolist() == [100, 0, 0]


def test_a_system_that_is_not_of_the_records_does_not_stop_the_others(tmp_path, caplog):
    config = _config(tmp_path)
    generate(config, "lead3")
    more = [*ROWS, {"id": "new", "document": "One more.", "target": "More."}]
    config = _config(tmp_path, more)
    generate(config, "lead1")
    scores = score(config)
    assert list(scores["systems"]) == ["lead1"]
    assert scores["systems"]["lead1"]["rows"] == 4
    (said,) = scores["left_out"]
    assert "1 of the 4 records are not in it, 'new' first" in said
    assert said in caplog.text


def test_a_generation_in_progress_is_named(tmp_path, caplog):
    config = _config(tmp_path)
    generate_shard(config, "lead3", Shard(0, 2))
    with pytest.raises(RunError, match=r"not finished, \d rows so far.*sumzero merge"):
        score(config)
    generate(config, "lead1")
    scores = score(config)
    assert list(scores["systems"]) == ["lead1"]
    assert "not finished" in scores["left_out"][0]
    assert "not finished" in caplog.text
    generate_shard(config, "lead3", Shard(1, 2))
    merge_shards(config, "lead3")
    assert "left_out" not in score(config)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "b", "te', ":2: is damaged"),
        ('{"text": "no id"}', ":2: is damaged"),
        ("[]", ":2: is damaged"),
        (None, " is missing"),
    ],
)
def test_a_damaged_row_is_told_by_its_line_and_made_whole_again(tmp_path, line, said):
    config = _config(tmp_path)
    made = generate(config, "lead1")
    merged = made.folder / "merged.jsonl"
    whole = merged.read_text()
    first, _, third = whole.splitlines(keepends=True)
    merged.unlink() if line is None else merged.write_text(f"{first}{line}\n{third}")
    with pytest.raises(RunError, match=rf"merged\.jsonl{said}; remove .*manifest\.json and run"):
        score(config)
    (made.folder / "manifest.json").unlink()
    generate(config, "lead1")
    assert merged.read_text() == whole
    assert score(config)["systems"]["lead1"]["rows"] == 3


@pytest.mark.parametrize("text", ["{}", "[]", '{"system": "lead1', "\xff"])
def test_a_damaged_manifest_is_told(tmp_path, text):
    config = _config(tmp_path)
    manifest = generate(config, "lead1").folder / "manifest.json"
    manifest.write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"manifest\.json is damaged; remove it and run"):
        score(config)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{}",
        '{"systems": {}}',
        '{"systems": []}',
        '{"systems": {"lead1": 3}}',
        '{"lead1": {"rouge1": 32.06}}',
        '{"systems": {"lead1": {"rows": 3, "metrics": {"rouge1": {"value": 1.0}}, "slices": []}}}',
    ],
)
def test_scores_of_another_form_are_told(tmp_path, text):
    config = _config(tmp_path)
    generate(config, "lead1")
    score(config)
    RunFolder.of(config).scores.write_text(text)
    for made_of in (report, pull_request):
        with pytest.raises(RunError, match=r"scores\.json is damaged, or of another version; run"):
            made_of(config)
