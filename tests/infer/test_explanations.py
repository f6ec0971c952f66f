"""Explanations by a scripted scorer: a summary is likely where the sentences that it needs are."""

import numpy as np
import pytest

from sumzero.infer.answering import Model
from sumzero.infer.explain import Todo, explanations
from sumzero.infer.explained import Explained
from sumzero.infer.generation import Generation
from sumzero.infer.job import Job

from .model_run import Scorer, opened, write_run

NAMES = ("model", "cat", "name", "index", "price", "document")
SENTENCES = [
    f"The {name} of the text." for name in ["model", "cat", "name", "index", "price", "document"]
]
DOCUMENT = " ".join(SENTENCES)
SUMMARY = "A cat. A price."


@pytest.fixture
def explained(tmp_path, model_folder, tokenizer):
    """Makes an explanation's job for documents, and what is to be explained of it."""

    def make(documents, summary=SUMMARY, checked=True, *, generate=None, explain=None, **data):
        rows = [{"id": f"row-{i}", "document": text} for i, text in enumerate(documents)]
        config = write_run(
            tmp_path, model_folder, tokenizer, rows, generate=generate, explain=explain, **data
        )
        inputs, model, made_by = opened(config)
        assert isinstance(model, Model)
        job = Job(config, "finetuned", inputs, model, None, made_by, {}, tmp_path)
        todo = [Todo(i, summary, checked, False, {"id": f"row-{i}"}) for i in range(len(documents))]
        return Explained(config, "finetuned", Generation(tmp_path, {}), job, model), todo

    return make


def test_each_summary_sentence_gets_the_sentence_that_it_needs(explained, tokenizer):
    scorer = Scorer(tokenizer)
    about, todo = explained([DOCUMENT, " ".join(reversed(SENTENCES))])
    rows = {row["id"]: row for row in explanations(scorer, about, todo)}
    for id_, wanted in (("row-0", [1, 4]), ("row-1", [4, 1])):
        weights = np.array(rows[id_]["weights"])
        assert weights.argmax(1).tolist() == wanted
        assert (np.delete(weights[0], wanted[0]) == 0).all()
        check = rows[id_]["check"]
        for method in ("ablation", "leave_one_out"):
            assert check["lds"][method] == pytest.approx(1)
        drops = check["drop"]["1"]
        assert drops["ablation"] == drops["leave_one_out"] > drops["random"]
        assert check["agrees_with_leave_one_out"] > 0.5
    assert len(scorer.prompts) == sum(
        row["cost"]["prompts"] + row["cost"]["check_prompts"] for row in rows.values()
    )


def test_a_summary_whose_scoring_fails_is_one_error_and_the_others_are_explained(
    explained, tokenizer
):
    about, todo = explained([DOCUMENT, DOCUMENT + " Deadly.", DOCUMENT], checked=False)
    rows = list(explanations(Scorer(tokenizer, fails=["Deadly"]), about, todo))
    assert sorted(row["id"] for row in rows) == ["row-0", "row-1", "row-2"]
    errors = {row["id"]: row["error"] for row in rows if "error" in row}
    assert errors == {"row-1": "the engine dies of this row: SIGKILL"}


class OneByOne(Scorer):
    """As an engine that has room for one prompt."""

    def generate(self, requests, stop_ids, seed):
        yield from map(self._completed, requests)


def test_after_a_failure_no_more_is_asked_of_that_document(explained, tokenizer):
    """Each of its prompts may end an engine."""
    about, todo = explained([f"Deadly. {DOCUMENT}", DOCUMENT], checked=False)
    scorer = OneByOne(tokenizer, fails=["Deadly"])
    rows = list(explanations(scorer, about, todo))
    assert ["error" in row for row in rows] == [True, False]
    assert sum("Deadly" in prompt for prompt in scorer.prompts) == 1
    assert len(scorer.prompts) <= 66 + rows[1]["cost"]["prompts"]


def test_random_weights_foretell_nothing(explained, tokenizer):
    """Though a summary is the likelier the more of its document is there."""
    about, todo = explained([" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(6)])
    rows = explanations(Scorer(tokenizer), about, todo)
    found = [row["check"]["lds"]["random"] for row in rows]
    assert abs(np.mean(found)) < 0.2


def test_what_was_cut_is_not_in_any_prompt(explained, tokenizer):
    document = " ".join(SENTENCES * 6)
    about, todo = explained([document], generate={"long": "truncate"})
    scorer = Scorer(tokenizer)
    (row,) = explanations(scorer, about, todo)
    read = [i for i in range(36) if i not in row["cut"]]
    assert 3 < len(read) < 36
    asked = max(scorer.prompts, key=len)
    assert asked.count(".") <= len(read) + 2
    assert not np.array(row["weights"])[:, row["cut"]].any()


@pytest.mark.parametrize("rule", ["head", "head_tail", "middle"])
def test_every_prompt_fits_whatever_the_rule_leaves(explained, tokenizer, rule):
    document = "\n ".join(SENTENCES * 6)
    settings = {"long": "truncate"}
    about, todo = explained([document], generate=settings, truncation=rule)
    scorer = Scorer(tokenizer)
    (row,) = explanations(scorer, about, todo)
    longest = max(scorer.prompts, key=len)
    assert len(tokenizer(longest, add_special_tokens=False).input_ids) <= 128 - 16
    assert row["prompt_tokens"] <= 128 - 16
    there = [i for i in range(36) if i not in row["cut"]]
    assert (0 in there) == (rule != "middle")
    assert (35 in there) == (rule == "head_tail")


def test_a_document_of_ten_thousand_sentences_has_as_many_groups_as_are_told_apart(
    explained, tokenizer
):
    many = "A cat. " * 10_000
    about, todo = explained([many], checked=False, generate={"long": "truncate"})
    (row,) = explanations(Scorer(tokenizer), about, todo)
    assert row["joined"] == 10_000
    assert len(row["document_sentences"]) <= 200


def test_in_parts_a_document_that_fits_is_rendered_as_its_generation_does(explained, tokenizer):
    text = f"The text. \n  {DOCUMENT} \n"
    about, todo = explained([text], generate={"long": "map_reduce"})
    scorer = Scorer(tokenizer)
    (row,) = explanations(scorer, about, todo)
    spans = row["document_sentences"]
    assert [text[a:b] for a, b in spans] == ["The text.", *SENTENCES]
    assert any(f"{text.strip()}\n\nSumm" in prompt for prompt in scorer.prompts)


def test_a_summary_that_does_not_fit_behind_its_prompt_is_scored_as_far_as_it_does(
    explained, tokenizer
):
    about, todo = explained([" ".join(SENTENCES * 6)], SUMMARY * 9, generate={"long": "truncate"})
    (row,) = explanations(Scorer(tokenizer), about, todo)
    assert row["prompt_tokens"] + len(row["token_logprobs"]) == 127
    assert len(row["summary_sentences"]) > 9
    assert np.isfinite(row["weights"]).all()
