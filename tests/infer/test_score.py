import json

import pytest

from sumzero.errors import RunError
from sumzero.infer.batches import read_batch
from sumzero.infer.chat import Remote
from sumzero.infer.generate import generate, merge_shards
from sumzero.infer.questions import each_record, references
from sumzero.infer.report import report
from sumzero.infer.score import score
from sumzero.infer.score_table import table
from sumzero.instructions import bundled
from sumzero.runfile import check, load
from sumzero.runfolder import RunFolder

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture
def run_file(tmp_path):
    rows = [
        {"id": "a", "document": "The cat sat. It slept.", "target": ["A dog ran.", "The cat sat."]},
        {"id": "b", "document": "Rain fell. Snow too.", "target": ["Rain and snow."]},
        {"id": HOSTILE, "document": f"{HOSTILE} {{{{ 7 * 7 }}}}.", "target": [HOSTILE]},
    ]
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "run.toml"
    file.write_text(f'runs = "{tmp_path}/runs"\n[data.test]\npath = "{data}"\n')
    return file


def test_scores_name_value_interval_and_signature(run_file):
    config = load(run_file)
    generate(config, "lead1")
    scores = score(config)
    assert scores == json.loads(RunFolder.of(config).scores.read_text())
    found = scores["systems"]["lead1"]
    assert found["rows"] == 3
    # a: the best reference is met exactly; b: one word of two (precision) and of three (recall).
    c = 100 * 3 / 3
    assert found["metrics"]["rouge1"]["value"] > (100 + 40) / 3
    assert found["metrics"]["rouge1"]["value"] <= (100 + 40 + c) / 3
    for metric in found["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["signature"]
    assert "impl:rouge-score" in found["metrics"]["rougeL"]["signature"]
    assert "lead1" in table(scores)


def test_records_that_were_not_generated_for_are_named(run_file, tmp_path):
    config = load(run_file)
    generate(config, "lead1")
    with (tmp_path / "test.jsonl").open("a") as out:
        out.write('{"id": "new", "document": "x", "target": "y"}\n')
    with pytest.raises(RunError, match="1 of the 4 records are not in it, 'new' first"):
        score(config)


def test_other_documents_of_the_same_ids_are_not_scored(run_file, tmp_path):
    config = load(run_file)
    generate(config, "lead1")
    file = tmp_path / "test.jsonl"
    file.write_text(file.read_text().replace("Rain fell.", "Hail fell."))
    with pytest.raises(RunError, match="other documents of the same ids"):
        score(config)
    generate(config, "lead1")
    assert score(config)["systems"]["lead1"]["rows"] == 3


def test_records_in_another_order_are_not_taken_for_those_generated_for(run_file, tmp_path):
    config = load(run_file)
    generate(config, "lead1")
    file = tmp_path / "test.jsonl"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    with pytest.raises(RunError, match="other documents of the same ids"):
        score(config)


def test_nothing_generated_is_said(run_file):
    with pytest.raises(RunError, match="nothing generated yet"):
        score(load(run_file))
    with pytest.raises(RunError, match="sumzero score"):
        report(load(run_file))


def test_models_of_others_are_scored_under_their_own_names_after_ours(run_file, tmp_path):
    config = load(run_file)
    generate(config, "lead1")
    names = ["zeta", "org/a-model-with-a-long-name", "a<b>model"]
    reply = {"choices": [{"message": {"content": "A cat."}}]}
    response = {"status_code": 200, "body": reply}
    lines = [json.dumps({"custom_id": id_, "response": response}) for id_ in ("a", "b", HOSTILE)]
    answered = tmp_path / "answered.jsonl"
    answered.write_text("\n".join(lines))
    for name in names:
        read_batch(config, Remote(name), [answered])
        merge_shards(config, Remote(name))
    scores = score(config)
    assert list(scores["systems"]) == ["lead1", *sorted(names)]
    _, *shown = table(scores).splitlines()
    assert [line.split()[0] for line in shown] == ["lead1", *sorted(names)]
    page = report(config).read_text(encoding="utf-8")
    assert "a&lt;b&gt;model" in page
    assert "a<b>model" not in page


def _source(tmp_path, rows, **settings):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"path": str(file), **settings}
    values = {"name": "run", "runs": str(tmp_path / "runs"), "data": {"test": source}}
    return check(values, "run.toml")


def test_what_a_document_does_not_answer_is_scored_against_saying_so(tmp_path):
    about = {"document": "The document does not answer this.", "question": "Who ran?"}
    rows = [{"id": "a", "answers": [], **about}, {"id": "b", "answers": ["Nobody."], **about}]
    columns = {"instruction": "question", "targets": "answers"}
    config = _source(tmp_path, rows, task="answer", **columns)
    said = bundled("answer", "en").unanswerable
    records = each_record(config.data.test, need_targets=True)
    assert [references(*pair, config) for pair in records] == [(said,), ("Nobody.",)]
    generate(config, "lead1")
    assert score(config)["systems"]["lead1"]["rows"] == 2


def test_rows_without_a_target_are_generated_for_and_the_others_are_scored(tmp_path):
    rows = [{"id": "a", "document": "A cat.", "target": "A cat."}, {"id": "b", "document": "Dogs."}]
    config = _source(tmp_path, rows)
    assert generate(config, "lead1").manifest["rows"] == 2
    assert score(config)["systems"]["lead1"]["rows"] == 1
