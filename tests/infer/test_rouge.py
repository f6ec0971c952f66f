import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from sumzero.infer.rouge import METRICS, Rouge, rouge, signature
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
    for order in (references, references[::-1]):
        found = rouge([order], ["the exact summary"])
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


TEXTS = (
    "今天是2023年，天气很好。BERT模型不错！",
    "明天是2023年。天气不好。",
    "Für München gilt: 3,5 Grad. Überall Straßen.",
    "Правительство объявило новые меры. Меры строгие.",
    "The cats sat on the mats. It was warming!",
    "हिन्दी में एक वाक्य।",
    "half \ud800 pair. 2023",
    "",
)


@pytest.mark.parametrize("language", ["en", "de", "zh"])
def test_both_packages_give_the_same_bits(language):
    fast, google = Rouge("rouge-score-rs"), Rouge("rouge-score")
    for reference in TEXTS[:-1]:
        targets = fast.targets([reference, TEXTS[4]], language)
        assert targets == google.targets([reference, TEXTS[4]], language)
        for text in TEXTS:
            assert fast.score(targets, text) == google.score(targets, text)


@settings(max_examples=50)
@given(st.text(max_size=60), st.text(max_size=60))
def test_both_packages_give_the_same_bits_of_any_text(reference, text):
    fast, google = Rouge("rouge-score-rs"), Rouge("rouge-score")
    targets = fast.targets([reference], "fr")
    assert fast.score(targets, text) == google.score(targets, text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_chinese_is_compared_by_its_characters(language):
    same = rouge([[TEXTS[0]]], [TEXTS[0]], language)
    assert [same[name][0] for name in METRICS] == [1.0] * 4
    year = rouge([["我们在2023年离开了北京"]], ["他曾于2023出版小说"], language)
    assert 0 < year["rouge1"][0] < 0.2
    assert year["rouge2"][0] == 0
    # 今 天 晴 against 今 天 雨: two of three.
    assert rouge([["今天晴"]], ["今天雨"], language)["rougeL"][0] == pytest.approx(2 / 3)


def test_an_umlaut_is_a_letter():
    assert rouge([["für"]], ["f r"], "de")["rouge1"][0] == 0
    assert rouge([["FÜR Straße"]], ["für strasse"], "de")["rouge1"][0] == 1


def test_the_signature_names_every_way_in_which_texts_were_cut():
    assert signature({"google"}).startswith("stem:porter|tok:google|split:rule|refs:max|impl:")
    assert signature({"unicode"}).startswith("stem:no|tok:unicode|")
    assert signature(["unicode", "google"]) == signature({"google", "unicode"})
    assert "stem:porter|tok:google+stem:no|tok:unicode" in signature(["unicode", "google"])


def test_published_rouge_of_xsum_summaries(shared_data):
    """Google's XSum hallucination annotations, 500 pairs (arXiv 2005.00661), to four decimals.

    Their ROUGE is the Perl script's, whose stemmer knows irregular forms ("been", "children",
    "found") and Google's does not: they alone make the published ROUGE-1 and L differ. ROUGE-2 is
    the same throughout.
    """
    rows = read_jsonl(shared_data / "xsum_hallucination_pairs500.jsonl")
    found = rouge([[row["reference"]] for row in rows], [row["prediction"] for row in rows])
    same = {}
    for key, name in (("R1", "rouge1"), ("R2", "rouge2"), ("RL", "rougeL")):
        published = np.array([row[key] for row in rows])
        same[key] = int((abs(found[name] - published) < 1.1e-4).sum())
    assert same == {"R1": 452, "R2": 500, "RL": 477}
    # What is reported in docs/evaluation.md: how little ROUGE says of faithfulness.
    ranks = {key: _ranks([row[key] for row in rows]) for key in ("faithful", "factual")}
    told = {
        (name, key): round(float(np.corrcoef(_ranks(found[name]), of)[0, 1]), 2)
        for name in METRICS
        for key, of in ranks.items()
    }
    assert [told[name, "faithful"] for name in METRICS] == [0.17, 0.13, 0.13, 0.13]
    assert [told[name, "factual"] for name in METRICS] == [0.17, 0.14, 0.16, 0.16]


def _ranks(values):
    """Mean ranks of ties: Pearson's correlation of them is Spearman's."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends + 1) / 2)[place]
