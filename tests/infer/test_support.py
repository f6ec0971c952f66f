import json

from sumzero.infer.support import ATTRIBUTIONS, by_words, certainty, read_explanations, strongest

ABOUT = {"kind": "explanation", "method": "ablation"}


def line(**values):
    usual = {
        "id": "a",
        "system": "finetuned",
        "document_sentences": [[0, 4], [5, 9]],
        "summary_sentences": [[0, 3]],
        "weights": [[0.5, -2.0]],
        "alignment": [[0.0, 0.25]],
    }
    return json.dumps({**usual, **values})


def written(folder, *lines):
    (folder / ATTRIBUTIONS).write_text("\n".join([json.dumps(ABOUT), *lines]) + "\n")
    return folder


def test_weights_are_kept_by_method_the_largest_first(tmp_path):
    weights = [[0.1, 0.7, 0.0]]
    spans = [[0, 1], [2, 3], [4, 5]]
    text = line(document_sentences=spans, weights=weights, alignment=[[0.0] * 3])
    found = read_explanations(written(tmp_path, text), {"a"})
    assert found.about == ABOUT
    support = found.of["finetuned", "a"]
    assert support.document == [(0, 1), (2, 3), (4, 5)]
    assert support.methods == {"ablation": [[(1, 0.7), (0, 0.1)]], "overlap": [[]]}


def test_other_ids_are_left_out(tmp_path):
    found = read_explanations(written(tmp_path, line(), line(id="b")), {"b"})
    assert list(found.of) == [("finetuned", "b")]


def test_a_run_without_explanations_has_none(tmp_path):
    assert read_explanations(tmp_path, {"a"}).of == {}


def test_torn_and_foreign_lines_are_left_out(tmp_path):
    lines = [
        line()[:40],
        "[1]",
        line(id="b", weights=[[1.0]], alignment=[]),
        line(id="c", document_sentences=[[0]]),
        line(id="d", weights=[["x", 1]]),
        line(id="e", weights=None),
    ]
    found = read_explanations(written(tmp_path, *lines), set("abcde"))
    assert list(found.of) == [("finetuned", "e")]
    assert list(found.of["finetuned", "e"].methods) == ["overlap"]


def test_words_in_common_are_told_of_each_text():
    document = "Rain fell on hills. A cat slept."
    one, none, other = by_words(document, ["The cat slept.", " ", "Hills. Rain fell there."])
    assert none is None
    assert one.methods["overlap"][0][0][0] == 1
    assert [found[0][0] for found in other.methods["overlap"]] == [0, 0]
    assert [document[a:b] for a, b in one.document] == ["Rain fell on hills.", "A cat slept."]


def test_the_strongest_are_above_zero_and_few():
    assert strongest([0.0, -1.0, float("nan")]) == []
    assert strongest([1.0, 0.001, 0.5]) == [(0, 1.0), (2, 0.5)]
    assert len(strongest([1.0] * 100)) == 8


def test_tokens_are_told_with_their_probability():
    spans, logprobs = [[0, 3], [3, 8], [9, 10]], [0.0, -0.693, -9.0]
    found = certainty({"token_spans": spans, "token_logprobs": logprobs})
    assert found.tokens == [0, 3, 100, 5, 50, 2, 0]
    assert (found.end, found.mean) == (10, 4)


def test_tokens_of_one_character_are_one():
    spans = [[0, 1], [1, 2], [1, 2], [1, 3], [3, 4]]
    found = certainty({"token_spans": spans, "token_logprobs": [0.0, -0.1, -0.2, -0.393, 0.0]})
    assert found.tokens == [0, 1, 100, 2, 50, 1, 100]


def test_a_certainty_that_is_none_is_left_out():
    good = {"token_spans": [[0, 1]], "token_logprobs": [-1.0]}
    assert certainty(good)
    for damage in (
        {"token_spans": [[0]]},
        {"token_spans": []},
        {"token_logprobs": None},
        {"token_logprobs": ["x"]},
        {"token_logprobs": [-1.0, -1.0]},
        {"token_logprobs": [float("nan")]},
        {"token_logprobs": [float("-inf")]},
    ):
        assert certainty({**good, **damage}) is None
