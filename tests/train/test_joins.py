"""Rows about one document become one example, and repeats are refused."""

import numpy as np
import pytest

from sumzero.train import parts

FAR = 2100  # rows: more than a part has


def _row(name, document="A cat sat.", target="Cat."):
    return {"id": name, "document": document, "target": target}


def _families(run):
    """The ids of each example's targets."""
    store = run.store
    return [store.identities(example) for example in range(len(store))]


def _sources(prepared, **rows):
    folder = prepared.new_folder()
    return [
        {"path": str(prepared.write(folder / f"{name}.jsonl", found))}
        for name, found in rows.items()
    ]


def test_rows_about_one_document_are_one_example_where_the_first_of_them_stands(prepared):
    rows = [
        _row("a0", "A", "one"),
        _row("b0", "B", "two"),
        _row("b1", "B", "three"),
        _row("a1", "A", "four"),
        _row("c0", "C", "five"),
        _row("b2", "B", "six"),
    ]
    run = prepared(rows)
    assert _families(run) == [["a0", "a1"], ["b0", "b1", "b2"], ["c0"]]
    targets = {name: target for piece in run.texts() for name, _, target in piece}
    assert targets == {row["id"]: row["target"] + "<|end|>" for row in rows}


def test_rows_are_joined_however_far_apart_they_stand(prepared):
    rows = [_row(n, f"Text {n}.") for n in range(3 * FAR)]
    rows[2] |= _row("first", "Same.", "one")
    rows[FAR] |= _row("second", "Same.", "two")
    rows[-1] |= _row("third", "Same.", "three")
    found = _families(prepared(rows))
    assert found[2] == ["first", "second", "third"]
    assert found[:2] + found[3:] == [[str(row["id"])] for row in rows if row["document"] != "Same."]


def test_rows_are_joined_over_the_files_of_a_source_and_not_over_sources(prepared):
    sources = _sources(
        prepared, a=[_row("a", target="one"), _row("b", "B")], b=[_row("c", target="two")]
    )
    folder = sources[0]["path"].removesuffix("a.jsonl")
    assert _families(prepared(train={"path": f"{folder}*.jsonl"})) == [["a", "c"], ["b"]]
    assert _families(prepared(train=sources)) == [["a"], ["b"], ["c"]]


def test_a_row_with_several_references_keeps_them_together(prepared):
    rows = [_row("a", target=["one", "two"]), _row("b", target="three")]
    run = prepared(rows)
    assert _families(run) == [["a", "a", "b"]]
    assert [target for _, _, target in run.texts()[0]] == [
        f"{text}<|end|>" for text in ("one", "two", "three")
    ]


def test_documents_that_differ_by_a_character_stay_apart(prepared):
    rows = [_row("a", "A cat sat."), _row("b", "A cat sat"), _row("c", "A cat  sat.")]
    assert _families(prepared(rows)) == [["a"], ["b"], ["c"]]


def test_the_tightest_target_of_a_document_says_how_much_of_it_stays(prepared):
    document = "A cat sat. " * 40
    rows = [_row("short", document, "x"), _row("long", document, "A cat sat on the mat. " * 3)]
    alone = {row["id"]: prepared([row], max_length=128).store.kept[0] for row in rows}
    assert alone["long"] < alone["short"]
    assert prepared(rows, max_length=128).store.kept.tolist() == [alone["long"]]


def test_a_repeated_id_is_refused_with_file_and_line_even_from_another_file(prepared):
    sources = _sources(
        prepared, a=[_row("x"), _row("y", "B"), _row("x", "C")], b=[_row("x", "D"), _row("z", "E")]
    )
    folder = sources[0]["path"].removesuffix("a.jsonl")
    run = prepared(train={"path": f"{folder}*.jsonl"})
    assert [(x["file"], x["line"], x["id"], x["reason"]) for x in run.rejects] == [
        (f"{folder}a.jsonl", 3, "x", "duplicate id 'x'"),
        (f"{folder}b.jsonl", 1, "x", "duplicate id 'x'"),
    ]
    assert _families(run) == [["x"], ["y"], ["z"]]


def test_a_repeated_row_is_refused_and_names_the_first(prepared):
    rows = [_row("a"), _row("b", target="Other."), _row("c"), _row("d")]
    run = prepared(rows)
    assert [(reject["id"], reject["line"]) for reject in run.rejects] == [("c", 3), ("d", 4)]
    assert {reject["reason"] for reject in run.rejects} == {
        "duplicate row: the same as that of id 'a'"
    }
    assert run.counts["rejected_by_reason"] == {"duplicate row": 2}
    assert _families(run) == [["a", "b"]]


def test_repeated_rows_can_be_kept(prepared):
    rows = [_row("a"), _row("b", target="Other."), _row("c")]
    run = prepared(rows, duplicates="keep")
    assert not run.rejects
    assert _families(run) == [["a", "b", "c"]]


def test_repeated_rows_far_apart_are_found(prepared):
    rows = [_row(n, f"Text {n}.") for n in range(2 * FAR)]
    rows[-1] = {**rows[5], "id": "again"}
    (reject,) = prepared(rows).rejects
    assert (reject["id"], reject["line"]) == ("again", 2 * FAR)
    assert "id '5'" in reject["reason"]


@pytest.mark.parametrize(
    ("change", "source"),
    [
        ({"question": "Where?"}, {"task": "answer", "instruction": "question"}),
        ({"question": "Where?"}, {"instruction": "question"}),
        ({"lang": "zh"}, {"language_column": "lang"}),
        ({"target": ["Cat.", "A cat."]}, {}),
    ],
)
def test_a_row_that_asks_or_answers_otherwise_is_no_repeat(prepared, change, source):
    row = _row("a") | {"question": "Who?", "lang": "en"}
    run = prepared([row, row | {"id": "b"} | change], source=source)
    assert not run.rejects
    assert set(_families(run)[0]) == {"a", "b"}


def test_a_row_that_was_refused_is_no_original(prepared):
    """Else the only row that is left with that content would be lost."""
    rows = [_row("x", "A", "one"), _row("x", "B", "two"), _row("y", "B", "two")]
    run = prepared(rows)
    assert [(reject["line"], reject["reason"]) for reject in run.rejects] == [
        (2, "duplicate id 'x'")
    ]
    assert _families(run) == [["x"], ["y"]]


@pytest.mark.parametrize("number", [6, FAR])  # within a part, and over parts
def test_hashes_that_collide_join_and_refuse_nothing_that_differs(prepared, monkeypatch, number):
    monkeypatch.setattr(parts, "hash_of", lambda *texts: 7)
    monkeypatch.setattr(parts, "key_of", lambda id_: 7)
    rows = [_row(n, f"Text {n:04}.", f"{n:04}.") for n in range(number)]
    rows += [_row("twin", rows[-1]["document"], "Other."), _row("again", "Text!", "Other.")]
    rows += [_row("again", "Text?"), _row("last", "Text?")]
    run = prepared(rows)
    families = _families(run)
    assert [reject["reason"] for reject in run.rejects] == ["duplicate id 'again'"]
    assert families[-3:] == [[str(number - 1), "twin"], ["again"], ["last"]]
    assert families[:-3] == [[str(n)] for n in range(number - 1)]


def test_questions_about_the_paragraphs_of_xquad_are_joined(prepared, shared_data):
    source = {
        "path": str(shared_data / "xquad_en250.jsonl"),
        "task": "answer",
        "document": "context",
        "instruction": "question",
        "targets": "answers.text",
    }
    run = prepared(train=source, max_length=4096)
    assert (run.counts["kept"], run.counts["targets"], run.counts["examples"]) == (250, 250, 130)
    assert len(np.unique(run.store.hash)) == 130
    plan = run.report["plan"]
    assert plan["tokens"] < 0.65 * plan["tokens_without_sharing"]
