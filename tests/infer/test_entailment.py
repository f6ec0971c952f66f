"""The entailment score, on small models: random ones against transformers, and one that knows."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sumzero.errors import DataError
from sumzero.infer import entailment
from sumzero.infer.entailment import Entailment

from .nli_models import WORDS, write_bert, write_knowing, write_roberta

DOCUMENTS = (
    "The cat sat on the mat. It was warm. The dog ran under the hill, and then it slept.",
    "Rain fell on the city. " * 12 + "They said nothing more.",
    "Snow.",
    "",
)
SUMMARIES = (
    "A cat sat. The dog slept!",
    "Rain fell. They said more. Snow fell.",
    "Snow fell.",
    "A dog.",
)


@pytest.fixture(scope="module", params=[write_bert, write_roberta])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("nli"))


@pytest.fixture(scope="module")
def scorer(folder):
    return Entailment(folder, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return Entailment(write_bert(tmp_path_factory.mktemp("bert")), device="cpu")


def test_batched_scores_are_those_of_one_pair_at_a_time(folder, scorer, monkeypatch):
    together = scorer.score(DOCUMENTS, SUMMARIES)
    alone = Entailment(folder, device="cpu", dtype=torch.float64, batch_tokens=1)
    one_by_one = [alone.score([x], [y])[0] for x, y in zip(DOCUMENTS, SUMMARIES, strict=True)]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12)
    assert len(set(together.round(3))) == 4  # else nothing was compared
    monkeypatch.setattr(entailment, "_PORTION", 100)  # tokens: several portions a document
    np.testing.assert_allclose(scorer.score(DOCUMENTS, SUMMARIES), together, rtol=1e-12)
    single = Entailment(folder, device="cpu").score(DOCUMENTS, SUMMARIES)
    np.testing.assert_allclose(single, together, atol=2e-6)


def test_a_short_pair_scores_what_transformers_makes_of_it(folder, scorer):
    """By transformers' own tokenizer and classifier, on a document of one window."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    document, summary = "The cat sat on the mat. It was warm.", "A cat sat."
    with torch.inference_mode():
        logits = model(**tokenizer(document, summary, return_tensors="pt")).logits
    wanted = logits.softmax(-1)[0, 1].item()  # ENTAILMENT is label 1
    assert scorer.score([document], [summary])[0] == pytest.approx(wanted, rel=1e-12)


def test_it_is_the_mean_over_sentences_of_the_best_window(scorer):
    document, said = DOCUMENTS[1], ("Rain fell.", "They said more.")
    hypotheses = scorer._text.encode(said)
    budget = scorer.max_length - scorer._frame.size - max(map(len, hypotheses))
    windows = scorer.windows(document, budget)
    assert len(windows) > 1
    best = []
    for hypothesis in hypotheses:
        found = []
        for window in windows:
            ids, types = scorer._frame.around(window, hypothesis)
            given = {"input_ids": torch.tensor([ids])}
            if any(types):
                given["token_type_ids"] = torch.tensor([types])
            with torch.inference_mode():
                found.append(scorer._model(**given).logits.softmax(-1)[0, 1].item())
        best.append(max(found))
    assert scorer.score([document], [" ".join(said)])[0] == pytest.approx(np.mean(best), rel=1e-9)


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), max_size=12),
    st.integers(5, 60),
)
def test_windows_hold_the_whole_document_and_fit(bert, said, budget):
    document = " ".join(" ".join(words).capitalize() + "." for words in said)
    ids = bert._text.encode([document])[0]
    ends = {0}  # where the windows so far may have ended
    for window in bert.windows(document, budget):
        size = len(window)
        assert size <= budget
        begins = [at for at in range(len(ids)) if ids[at : at + size] == window]
        # It goes on where the last one ended, or before.
        ends = {at + size for at in begins if any(at <= end < at + size for end in ends)} or ends
    assert len(ids) in ends


def test_windows_end_where_sentences_do_and_share_one(bert):
    document = "The cat sat. The dog ran. The bird flew. Rain fell on the hill."
    texts = [bert._tokenizer.decode(ids) for ids in bert.windows(document, 9)]
    assert texts == [
        "the cat sat . the dog ran .",
        "the dog ran . the bird flew .",
        "rain fell on the hill .",
    ]


def test_the_label_is_found_by_its_name_in_whatever_order(tmp_path):
    scores = []
    for number, order in enumerate(([0, 1, 2], [2, 0, 1])):
        labels = dict(enumerate(["entailment", "neutral", "contradiction"]))
        folder = write_bert(tmp_path / str(number), {at: labels[at] for at in range(3)})
        file = tmp_path / str(number) / "config.json"
        config = json.loads(file.read_text())
        config["id2label"] = {str(at): labels[name] for at, name in enumerate(order)}
        config["label2id"] = {name: int(at) for at, name in config["id2label"].items()}
        file.write_text(json.dumps(config))
        scores.append(Entailment(folder, device="cpu").score(DOCUMENTS[:2], SUMMARIES[:2]))
    # The same weights: another order of names is another answer of the model.
    assert not np.allclose(*scores)


def test_models_that_are_none_of_inference_are_refused(tmp_path, model_folder):
    folder = write_bert(tmp_path / "a", {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"})
    with pytest.raises(
        DataError, match="none of its labels is entailment; it has LABEL_0, LABEL_1"
    ):
        Entailment(folder, device="cpu")
    with pytest.raises(DataError, match="is no classifier of texts"):
        Entailment(str(model_folder), device="cpu")  # a language model
    with pytest.raises(DataError, match="no model can be fetched"):
        Entailment("nobody/has-this", device="cpu")


def test_a_model_that_gives_no_numbers_is_refused_and_not_scored_0(tmp_path):
    scorer = Entailment(write_bert(tmp_path), device="cpu")
    with torch.no_grad():
        scorer._model.classifier.bias.fill_(torch.nan)
    with pytest.raises(DataError, match=r"no numbers \(NaN\): its weights are damaged, or too"):
        scorer.score(DOCUMENTS, SUMMARIES)


def test_control_tokens_in_a_text_are_text(bert):
    plain = bert.windows("the cat sat on the mat", 60)
    hostile = bert.windows("the cat [SEP] sat [CLS] on the mat", 60)
    marks = {bert._tokenizer.sep_token_id, bert._tokenizer.cls_token_id}
    assert not marks.intersection(*hostile)
    assert len(hostile[0]) > len(plain[0]) + 2


def test_texts_without_a_word_have_no_score(bert):
    found = bert.score(["The cat sat.", ""], ["  \n", "The cat sat."])
    assert np.isnan(found[0])
    assert 0 <= found[1] <= 1
    assert len(bert.score([], [])) == 0


def test_the_signature_names_model_label_and_windows(bert):
    parts = bert.signature.split("|")
    assert parts[0].startswith("model:bert")
    assert {"label:ENTAILMENT", "premise:window64", "agg:max-mean", "dtype:float32"} <= {*parts}


def test_a_model_that_knows_the_answer_tells_faithful_summaries_from_others(tmp_path):
    knows = Entailment(write_knowing(tmp_path), device="cpu")
    filler = "Rain fell and then snow fell. They said nothing more. It was cold in the city. " * 4
    document = f"{filler} The bird flew. {filler} The cat sat. The bird ran. {filler}"
    summaries = [
        "A cat sat. A bird flew.",
        "The cat sat. The dog slept.",
        "A dog ran! It was cold.",
    ]
    scores = knows.score([document] * 3, summaries)
    np.testing.assert_allclose(scores, [1, 0.5, 0], atol=1e-3)
