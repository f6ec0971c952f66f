"""The token store as training reads it."""

import numpy as np
import pyarrow as pa
import pytest

from sumzero.errors import RunError
from sumzero.train.examples import store_file
from sumzero.train.store import TokenStore

SOURCE = {"task": "answer", "instruction": "question"}
ROWS = [
    {"id": "a", "document": "The cat sat.", "question": "Who?", "target": ["A cat", "The cat"]},
    {"id": "b", "document": "Rain fell on it. " * 30, "question": "What fell?", "target": "Rain"},
    {"id": "c", "document": "The cat sat.", "question": "What did it do?", "target": "It sat"},
]


@pytest.fixture(scope="module")
def run(prepared):
    return prepared(ROWS, source=SOURCE, max_length=150, truncation="head_tail")


def test_an_example_holds_its_document_once_and_every_question_and_target(run):
    store, encode = run.store, run.renderer.encode_text
    assert (len(store), store.num_branches) == (2, 4)
    document, questions, targets = store.row(0)
    assert [document.tolist()] == encode(["The cat sat."])
    assert [ids.tolist() for ids in questions] == encode(["Who?", "Who?", "What did it do?"])
    want = run.renderer.encode_targets(["A cat", "The cat", "It sat"])
    assert [ids.tolist() for ids in targets] == want
    assert store.identities(0) == ["a", "a", "c"]
    assert store.identities(1) == ["b"]


def test_a_long_document_is_cut_as_the_rule_has_it(run):
    store = run.store
    (document,) = run.renderer.encode_text([ROWS[1]["document"].strip()])
    kept = store.row(1)[0].tolist()
    assert store.document_tokens[1] == len(document) > len(kept) == store.kept[1]
    head = len(kept) - len(kept) // 2
    assert kept == document[:head] + document[-(len(kept) // 2) :]


def test_the_arrays_tell_of_the_rows(run):
    store = run.store
    for example in range(len(store)):
        document, questions, targets = store.row(example)
        branches = slice(store.offsets[example], store.offsets[example + 1])
        assert store.kept[example] == len(document)
        assert store.question_tokens[branches].tolist() == list(map(len, questions))
        assert store.target_tokens[branches].tolist() == list(map(len, targets))
    assert store.source.tolist() == [0, 0]
    assert store.key[0] == store.key[1] != store.key[2]  # references of a row are drawn for alike


def test_the_instruction_s_tokens_stand_around_the_question(run):
    template, renderer = run.store.template, run.renderer
    assert (template.head, template.tail) == (renderer.head_ids, renderer.tail_ids)
    (question,) = renderer.encode_text(["Who?"])
    (way,) = template.ways
    asked = template.asked(0, 2, np.array(question, np.int32)).tolist()
    assert asked == way[2][0] + question + way[2][1] + template.tail


def test_rows_are_read_from_the_mapped_file_and_not_copied(run):
    before = pa.total_allocated_bytes()
    store = run.store
    held = pa.total_allocated_bytes() - before
    assert held < store_file(run.folder, "train").stat().st_size / 4
    assert not store.row(1)[2][0].flags.owndata


@pytest.mark.parametrize("content", [b"", b"no store", b"ARROW1\0\0" * 40])
def test_a_damaged_store_is_told_in_one_line(tmp_path, content):
    file = tmp_path / "train.arrow"
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"train\.arrow: damaged .*sumzero prepare") as error:
        TokenStore(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_store_that_was_cut_off_is_told_in_one_line(run, tmp_path, share):
    whole = store_file(run.folder, "train").read_bytes()
    file = tmp_path / "train.arrow"
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunError, match=r"train\.arrow: damaged .*sumzero prepare"):
        TokenStore(file)


def test_another_arrow_file_is_no_store(tmp_path):
    file = tmp_path / "train.arrow"
    table = pa.table({"a": [1]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    with pytest.raises(RunError, match=r"damaged \(not a token store of this version"):
        TokenStore(file)
