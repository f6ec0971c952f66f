"""The metrics of each task, by slices, the same however they are computed."""

import json

import numpy as np
import pytest
from sacrebleu import corpus_bleu, corpus_chrf

from sumzero.cli import main
from sumzero.infer import score as score_module
from sumzero.infer.generate import generate
from sumzero.infer.generation import finished_generations
from sumzero.infer.measures import MAIN
from sumzero.infer.row_scores import read_row_scores
from sumzero.infer.score import score
from sumzero.infer.score_table import details, slices, table
from sumzero.infer.significance import bootstrap_interval
from sumzero.runfile import check, load
from sumzero.runfolder import RunFolder

SUMMARIES = [
    {"id": f"s{i}", "text": f"A cat sat on mat {i}. It was warm. A dog ran. {'More. ' * i * 20}"}
    | {"out": [f"The cat sat on mat {i}.", "Warm."]}
    for i in range(8)
]
QUESTIONS = [
    {"id": "q1", "text": "1984", "ask": "When?", "out": ["In 1984", "1984"]},
    {"id": "q2", "text": "Nobody knows.", "ask": "Who?", "out": []},
]
PAIRS = [
    {"id": "t1", "text": "我们在2023年离开。", "out": ["我们在2022年离开北京。"]},
    {"id": "t2", "text": "天气很好。", "out": ["天气很好。"]},
]


def _config(folder, **values):
    sources = []
    for name, rows, settings in (
        ("summaries", SUMMARIES, {}),
        ("questions", QUESTIONS, {"task": "answer", "instruction": "ask"}),
        ("pairs", PAIRS, {"task": "translate", "target_language": "zh"}),
    ):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sources.append({"path": str(file), "document": "text", "targets": "out", **settings})
    data = {"test": sources}
    return check({"name": "run", "runs": str(folder / "runs"), "data": data, **values}, "r.toml")


def test_each_task_has_its_own_metrics(tmp_path):
    config = _config(tmp_path)
    made = generate(config, "lead1")
    found = score(config)["systems"]["lead1"]
    by_task = {part["is"]: part for part in found["slices"] if part["by"] == "task"}
    assert {task: part["rows"] for task, part in by_task.items()} == {
        "summarize": 8,
        "answer": 2,
        "translate": 2,
    }
    for task, part in by_task.items():
        assert set(MAIN[task]) <= part["metrics"].keys()
    assert "rouge1" not in by_task["answer"]["metrics"]
    assert "coverage" not in by_task["translate"]["metrics"]
    assert found["metrics"]["exact_match"]["value"] == 50  # "1984", and not what was not answered
    texts, streams = (
        ["我们在2023年离开。", "天气很好。"],
        [[x for row in PAIRS for x in row["out"]]],
    )
    expected = corpus_bleu(texts, streams, tokenize="zh").score, corpus_chrf(texts, streams).score
    assert [found["metrics"][x]["value"] for x in ("bleu", "chrf")] == [
        round(value, 4) for value in expected
    ]
    assert "tok:zh" in found["metrics"]["bleu"]["signature"]
    rows = read_row_scores(made)
    assert rows.ids == [row["id"] for row in (*SUMMARIES, *QUESTIONS, *PAIRS)]
    assert rows.columns["language"].tolist() == ["en"] * 10 + ["zh"] * 2
    assert np.isnan(rows.columns["bleu_statistics"][:10]).all()
    assert np.isnan(rows.columns["rouge1"][8:]).all()


def test_a_document_is_as_long_as_in_its_own_language(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        json.dumps({"id": "t", "document": "A cat sat here.", "target": "猫坐在这里。"})
    )
    source = {"path": str(file), "task": "translate", "target_language": "zh"}
    config = check({"name": "run", "runs": str(tmp_path), "data": {"test": source}}, "r.toml")
    made = generate(config, "lead1")
    score(config)
    rows = read_row_scores(made).columns
    assert rows["document_words"].tolist() == [4]
    assert rows["summary_words"].tolist() == [len("Acatsathere.")]  # of a text in Chinese


def test_what_scores_say_is_in_the_rows(tmp_path):
    config = _config(tmp_path)
    made = generate(config, "lead1")
    found = score(config)["systems"]["lead1"]
    rows = read_row_scores(made)
    assert found["metrics"].keys() - {"bleu", "chrf"} == set(rows.metrics)
    for name in rows.metrics:
        values = rows.columns[name][~np.isnan(rows.columns[name])]
        low, high = bootstrap_interval(values, resamples=1000, seed=0)
        metric = found["metrics"][name]
        assert metric["signature"] == rows.signatures[name]
        assert [metric[x] for x in ("value", "low", "high")] == pytest.approx(
            [values.mean(), low, high], abs=1e-4
        )


def test_processes_change_nothing(tmp_path, monkeypatch):
    config = _config(tmp_path)
    generate(config, "lead1")
    alone = score(config)
    monkeypatch.setattr(score_module, "_WORTH_PROCESSES", 1)
    monkeypatch.setattr(score_module, "cores", lambda: 2)
    assert score(config) == alone


def test_the_length_that_was_asked_for_is_compared_with(tmp_path):
    config = _config(tmp_path, generate={"words": 5, "max_new_tokens": 6})
    made = generate(config, "echo")
    assert "length_kept" not in score(config)["systems"]["echo"]["metrics"]  # it is not asked
    manifest = json.loads((made.folder / "manifest.json").read_text())
    manifest["sampling"]["words"] = 5
    (made.folder / "manifest.json").write_text(json.dumps(manifest))
    metrics = score(config)["systems"]["echo"]["metrics"]
    assert metrics["length_kept"]["value"] == 0
    assert metrics["length_ratio"]["value"] == 6 / 5
    assert metrics["stopped_by_length"]["value"] == 75


def test_tables_fit_a_terminal_and_show_each_task(tmp_path):
    config = _config(tmp_path)
    for system in ("lead1", "lead3"):
        generate(config, system)
    scores = score(config)
    shown = table(scores)
    for task, rows in (("summarize", 8), ("answer", 2), ("translate", 2)):
        assert f"{task}, {rows} rows" in shown
    for text in (shown, details(scores), slices(scores)):
        assert max(map(len, text.splitlines())) <= 100
    assert "exact_match" not in details(scores)
    assert "repeated_3grams" in details(scores)
    assert "empty" not in details(scores)
    assert "lead3, summarize" in slices(scores)
    assert "document_words 0-99" in slices(scores)


def test_what_records_call_a_language_does_nothing_to_a_terminal(tmp_path, capsys):
    rows = [
        {"id": f"r{i}", "document": "A cat. A dog.", "target": "A cat.", "in": language}
        for i, language in enumerate(["en", "x\x1b[2Jy"])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.toml").write_text(
        f'runs = "{tmp_path}"\n[data.test]\npath = "{tmp_path}/rows.jsonl"\n'
        'language_column = "in"\n'
    )
    for system in ("lead1", "lead3"):
        generate(load(tmp_path / "run.toml"), system)
    for command in (["score", "--slices"], ["compare"]):
        assert main([*command, str(tmp_path / "run.toml")]) == 0
        shown = capsys.readouterr().out
        assert "language x[2Jy" in shown
        assert "\x1b" not in shown


def test_three_sentences_lead(tmp_path):
    config = _config(tmp_path)
    generate(config, "lead3")
    rows = finished_generations(RunFolder.of(config))["lead3"].rows()
    assert rows[1]["text"] == "A cat sat on mat 1. It was warm. A dog ran."
    assert rows[8]["text"] == "1984"
