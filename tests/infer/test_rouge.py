import pytest
from rouge_score import rouge_scorer

from sumzero.infer.rouge import METRICS, rouge, signature
from sumzero.runfolder import read_jsonl

PAIRS = [
    ("The cat sat on the mat. It was warm.", "A cat sat on a mat. The mat was warm."),
    ("Return the name of the device.", "Returns device names"),
    ("One sentence only", ""),
    ("Numbers: 3.5, e.g. pi. Next one!", "numbers 3.5 and pi"),
]


def test_equals_googles_scorer_bit_for_bit():
    google = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = rouge([[target] for target, _ in PAIRS], [text for _, text in PAIRS])
    for row, (target, text) in enumerate(PAIRS):
        want = google.score(target, text)
        assert [found[name][row] for name in ("rouge1", "rouge2", "rougeL")] == [
            want[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")
        ]


def test_lsum_goes_sentence_by_sentence():
    target, text = "The cat sat. The dog ran.", "The dog ran. The cat sat."
    found = rouge([[target]], [text])
    assert found["rougeLsum"][0] == 1.0
    assert found["rougeL"][0] < 1.0


def test_the_best_reference_counts_and_the_order_does_not():
    references = ["nothing in common", "the exact summary"]
    for given in (references, references[::-1]):
        found = rouge([given], ["the exact summary"])
        assert all(found[name][0] == 1.0 for name in METRICS)


def test_a_text_without_reference_is_refused():
    with pytest.raises(ValueError, match="reference"):
        rouge([[]], ["text"])
    with pytest.raises(ValueError, match="reference"):
        rouge([["a"], ["b"]], ["text"])


def test_the_signature_names_the_implementation():
    assert "stem:porter" in signature()
    assert "rouge-score" in signature()


def test_googles_own_fixtures(shared_data):
    file = shared_data / "rouge155_google_fixtures.jsonl"
    rows = read_jsonl(file)
    unstemmed = [row for row in rows if not row["stem"]]
    assert unstemmed
    for row in rows:
        google = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=row["stem"])
        found = google.score(row["target"], row["prediction"])
        ours = rouge([[row["target"]]], [row["prediction"]])
        for name in {"rouge1", "rouge2", "rougeL"} & row.keys():
            *_, fmeasure = row[name]
            assert found[name].fmeasure == pytest.approx(fmeasure, abs=5e-6)
            if row["stem"]:
                assert ours[name][0] == pytest.approx(fmeasure, abs=5e-6)
