"""Two systems side by side, from the tables that scoring writes."""

import json

import numpy as np
import pytest

from sumzero.cli import main
from sumzero.infer.bleu import WIDTHS, corpus_score, statistics
from sumzero.infer.generation import Generation
from sumzero.infer.row_scores import write_row_scores

ROWS = 40
IDS = [f"r{number:02d}" for number in range(ROWS)]
SIGNATURES = {"rouge1": "stem:porter", "rougeL": "stem:porter", "novel1": "tok:words"}


@pytest.fixture
def written(tmp_path):
    """Writes a system of a run, scored as is said; returns the run's folder."""

    def write(run, system, values, *, ids=IDS, signatures=SIGNATURES, references="R", **columns):
        folder = tmp_path / "runs" / run
        where = folder / "generations" / system
        where.mkdir(parents=True)
        (folder / "config.toml").write_text("seed = 1\n[score]\nbootstrap = 400\n")
        manifest = {"system": system, "finished": 1.0, "rows": len(ids)}
        (where / "manifest.json").write_text(json.dumps(manifest))
        lines = [{"id": id_, "text": f"{system} says\x1b[31m {id_}"} for id_ in ids]
        (where / "merged.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        about = {
            "id": ids,
            "task": ["summarize"] * len(ids),
            "language": ["en"] * len(ids),
            "document_words": [50 if number % 2 else 500 for number in range(len(ids))],
            "summary_words": [9] * len(ids),
            "truncated": [False] * len(ids),
            "failed": [False] * len(ids),
            "finish_reason": ["stop"] * len(ids),
        }
        write_row_scores(
            Generation(where, manifest),
            {**about, **values, **columns},
            signatures=signatures,
            references=references,
        )
        return str(folder)

    return write


def values(shift=0.0, seed=0):
    """Values in percent that are alike but for some rows, and a shift of all of one metric."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(10, 60, size=ROWS)
    novel = np.where(np.arange(ROWS) < 5, np.nan, base)
    return {"rouge1": base, "rougeL": base + shift, "novel1": novel}


def compared(capsys, *arguments):
    assert main(["compare", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def fault(capsys, *arguments):
    assert main(["compare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_it_gives_both_values_their_difference_and_how_sure_it_is(written, capsys):
    better = values(shift=2.0)
    better["rouge1"] = better["rouge1"].copy()
    better["rouge1"][:3] += [30, -20, 1e-12]
    a, b = written("a", "finetuned", values()), written("b", "finetuned", better)
    found = compared(capsys, a, b)
    assert (found["a"], found["b"]) == (f"{a}:finetuned", f"{b}:finetuned")
    assert found["rows"] == ROWS
    assert list(found["metrics"]) == ["rouge1", "rougeL", "novel1"]
    one = found["metrics"]["rougeL"]
    assert one["difference"] == pytest.approx(2)
    assert (one["low"], one["high"]) == pytest.approx((2, 2), abs=1e-5)
    assert one["b"] - one["a"] == one["difference"]
    assert one["p_bootstrap"] == 1 / 401
    assert one["p_randomisation"] == 1 / 10_001
    assert (one["win"], one["tie"], one["loss"]) == (ROWS, 0, 0)
    mixed = found["metrics"]["rouge1"]
    assert mixed["difference"] == pytest.approx(10 / ROWS)
    assert mixed["low"] < 0 < mixed["high"]
    # Two rows differ: of their four exchanges two give a difference as large, two one of 50.
    assert mixed["p_randomisation"] == 1
    assert (mixed["win"], mixed["tie"], mixed["loss"]) == (1, ROWS - 2, 1)
    same = found["metrics"]["novel1"]
    assert (same["rows"], same["tie"]) == (ROWS - 5, ROWS - 5)
    assert same["p_bootstrap"] == same["p_randomisation"] == 1
    assert found == compared(capsys, a, b)


def test_rows_that_changed_most_come_first_with_their_texts_where_wanted(written, capsys):
    other = values()
    other["rouge1"] = other["rouge1"] + np.where(np.arange(ROWS) == 7, -30, 0)
    other["rouge1"][9] += 4
    a, b = written("a", "finetuned", values()), written("b", "mine", other)
    arguments = [a, b, "--system=finetuned", "--system-b=mine", "--metric=rouge1"]
    changed = compared(capsys, *arguments, "--texts")["changed"]
    assert [(row["id"], round(row["b"] - row["a"])) for row in changed] == [
        ("r07", -30),
        ("r09", 4),
    ]
    assert changed[0]["text_b"] == "mine says\x1b[31m r07"
    assert changed[0]["metric"] == "rouge1"
    assert "text_a" not in compared(capsys, *arguments, "--changed=1")["changed"][0]
    assert main(["compare", *arguments, "--texts"]) == 0
    shown = capsys.readouterr().out
    assert "b: mine says[31m r07" in shown
    assert "\x1b" not in shown


def test_slices_tell_where_the_difference_is(written, capsys):
    short = np.arange(ROWS) % 2 == 1  # 50 words
    other = values()
    other["rougeL"] = other["rougeL"] + np.where(short, 6, 0)
    cut = ["length" if number < 4 else "stop" for number in range(ROWS)]
    a = written("a", "finetuned", values())
    b = written("b", "finetuned", other, finish_reason=cut, truncated=[*[False] * 39, True])
    found = {(part["by"], part["is"]): part for part in compared(capsys, a, b)["slices"]}
    assert set(found) == {
        ("document_words", "0-99"),
        ("document_words", "300-999"),
        ("cut", "whole"),
        ("cut", "document"),
        ("cut", "summary"),
    }
    assert found["document_words", "0-99"]["metrics"]["rougeL"]["difference"] == pytest.approx(6)
    assert found["document_words", "300-999"]["metrics"]["rougeL"]["difference"] == 0
    # Whole is what neither system has cut.
    assert [found["cut", name]["rows"] for name in ("whole", "document", "summary")] == [35, 1, 4]


def test_corpus_metrics_are_compared_by_what_rows_add(written, capsys):
    texts = ["the cat sat on the mat today", "a dog ran over the green hill"] * (ROWS // 2)
    worse = ["the cat sat on a mat today", "a dog ran on the hill"] * (ROWS // 2)
    columns = {}
    for key, said in (("a", texts), ("b", worse)):
        counts = [statistics([ref], text, "en") for ref, text in zip(texts, said, strict=True)]
        columns[key] = {f"{name}_statistics": [x[name] for x in counts] for name in WIDTHS}
    signatures = dict.fromkeys(WIDTHS, "nrefs:1")
    a, b = (written(key, "finetuned", columns[key], signatures=signatures) for key in "ab")
    found = compared(capsys, a, b)["metrics"]
    for name in WIDTHS:
        score = corpus_score(name, np.sum(columns["b"][f"{name}_statistics"], axis=0))
        assert (found[name]["a"], found[name]["b"]) == (pytest.approx(100), score)
        assert found[name]["high"] < 0
        assert (found[name]["win"], found[name]["loss"]) == (0, ROWS)
        assert found[name]["p_randomisation"] < 1e-3


def test_systems_are_chosen_where_that_is_plain(written, capsys):
    a, _ = written("a", "lead1", values()), written("a", "finetuned", values(shift=1))
    b = written("b", "finetuned", values(shift=2))
    assert compared(capsys, a)["a"] == f"{a}:lead1"
    assert compared(capsys, a, b)["a"] == f"{a}:finetuned"
    crossed = compared(capsys, a, b, "--system=lead1", "--system-b=finetuned")
    assert (crossed["a"], crossed["b"]) == (f"{a}:lead1", f"{b}:finetuned")
    assert f"{b}: no system 'lead1'; it has finetuned" in fault(capsys, a, b, "--system=lead1")
    written("a", "untrained", values())
    assert "say which of its systems" in fault(capsys, a)
    assert "say which of its systems" in fault(capsys, a, "--system=lead1")


def test_settings_may_be_changed(written, capsys):
    a, b = written("a", "finetuned", values()), written("b", "finetuned", values(shift=1))
    found = compared(capsys, a, b, "score.bootstrap=100", "seed=5")
    assert found["metrics"]["rougeL"]["p_bootstrap"] == 1 / 101
    assert "one or two runs, got 3" in fault(capsys, a, b, a)


def test_what_cannot_be_compared_is_refused_and_why_is_said(written, capsys, tmp_path):
    a = written("a", "finetuned", values())
    fewer = {name: column[2:] for name, column in values().items()}
    others = written("b", "finetuned", fewer, ids=IDS[2:])
    assert f"2 only in {a}:finetuned ('r00', 'r01')" in fault(capsys, a, others)
    none = written("c", "finetuned", values(), ids=[f"x{number}" for number in range(ROWS)])
    assert "no id in common" in fault(capsys, a, none)
    other = written("d", "finetuned", values(), references="S")
    assert "other references or another order" in fault(capsys, a, other)
    b = written("e", "finetuned", values())
    assert "--metric bleu: is not scored" in fault(capsys, a, b, "--metric=bleu")
    for name in ("row_scores.parquet", "manifest.json"):
        (tmp_path / "runs/a/generations/finetuned" / name).unlink()
        said = {"row_scores.parquet": "run `sumzero score RUN` first", "manifest.json": "nothing"}
        assert said[name] in fault(capsys, a, others)
    (tmp_path / "runs/a/generations/finetuned/shard-00000-of-00001.jsonl").write_text("{}\n")
    assert "not finished, 1 rows so far" in fault(capsys, a, others)


def test_metrics_of_other_signatures_are_left_out_by_name(written, capsys):
    other = dict(SIGNATURES, rouge1="stem:none")
    more = values() | {"f1": values()["rouge1"]}
    a = written("a", "finetuned", values())
    b = written("b", "finetuned", more, signatures=other | {"f1": "norm:squad"})
    found = compared(capsys, a, b)
    assert list(found["metrics"]) == ["rougeL", "novel1"]
    assert found["left_out"] == {
        "rouge1": "signatures differ, stem:porter against stem:none",
        "f1": f"only {b}:finetuned has it",
    }
    assert main(["compare", a, b]) == 0
    assert "left out: rouge1: signatures differ" in capsys.readouterr().out
    assert "no metric can be compared (rouge1: signatures" in fault(
        capsys, a, b, "--metric", "rouge1"
    )
