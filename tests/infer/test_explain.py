"""`sumzero explain`: what is rendered, scored and written, with a model of random weights."""

import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sumzero.cli import main
from sumzero.contract import open_contract
from sumzero.infer.explain import explain
from sumzero.infer.explanation_file import read_explanation, table
from sumzero.runfile import load
from sumzero.runfolder import RunFolder

from .explained_run import ROWS, generated, write_run_file

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
LIMIT = 256 - 30  # tokens of a prompt


@pytest.fixture(scope="module")
def run_file(tokenizer, tmp_path_factory):
    return write_run_file(tmp_path_factory.mktemp("explain"), tokenizer)


@pytest.fixture(scope="module")
def generation(run_file, tokenizer):
    return generated(run_file, tokenizer)


@pytest.fixture(scope="module")
def explained(run_file, generation):
    """All summaries explained by the command, the file's first line and its rows by id."""
    assert main(["explain", str(run_file), "--sample", "50"]) == 0
    head, rows = read_explanation(RunFolder.of(load(run_file)))
    assert head["cost"]["rows_made_now"] == len(ROWS)
    return head, {row["id"]: row for row in rows}


@pytest.fixture(scope="module")
def scored(run_file):
    """The log-probabilities that transformers gives the tokens of a text after a document."""
    export = RunFolder.of(load(run_file)).export
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    contract, renderer = open_contract(export)
    asked = renderer.ask(contract.instructions[0].inference())

    def score(document, text):
        prompt = renderer.prompt(renderer.encode_text([document])[0], LIMIT, asked).ids
        target, _ = renderer.target_spans(text)
        assert renderer.encode_targets([text])[0] == target + renderer.end_ids
        ids = torch.tensor([prompt + target[: 255 - len(prompt)]])
        with torch.no_grad():
            logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()

    return score


def test_every_summary_has_weights_of_its_documents_sentences(explained, generation):
    head, rows = explained
    assert list(rows) == [row["id"] for row in ROWS]
    assert head["sample"] == {
        "rows": 13,
        "chosen": 13,
        "explained": 13,
        "alignment_only": 0,
        "errors": 0,
        "left_out": {"failed": 0, "empty": 0},
    }
    for given, made in zip(ROWS, generation.rows(), strict=True):
        row = rows[given["id"]]
        shape = len(row["summary_sentences"]), len(row["document_sentences"])
        assert np.shape(row["weights"]) == np.shape(row["alignment"]) == shape
        assert np.isfinite(row["weights"]).all()
        for name, text in (("document", given["document"]), ("summary", made["text"])):
            spans = row[f"{name}_sentences"]
            assert all(text[begin:end].strip() == text[begin:end] for begin, end in spans)
            assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())
            assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert any(np.abs(row["weights"]).max() > 0.1 for row in rows.values())


def test_the_whole_prompt_is_that_of_the_generation_and_its_tokens_are_as_likely(
    explained, generation, scored
):
    for given, made in zip(ROWS, generation.rows(), strict=True):
        row = explained[1][given["id"]]
        assert row["prompt_tokens"] == made["prompt_tokens"]
        wanted = scored(given["document"], made["text"])
        np.testing.assert_allclose(row["token_logprobs"], wanted, rtol=0, atol=2e-4)
        assert sum(row["summary_logprobs"]) == pytest.approx(sum(row["token_logprobs"]), abs=0.01)
        assert len(row["token_spans"]) == len(row["token_logprobs"])


def test_a_document_of_one_sentence_has_what_its_summary_loses_without_it(
    explained, generation, scored
):
    """Both ablations there are: the fit is the difference, less the penalty on either side."""
    row = explained[1]["row-0"]
    text = generation.rows()[0]["text"]
    assert len(row["document_sentences"]) == 1
    assert row["cost"]["prompts"] == 2
    with_it, without = (scored(document, text) for document in (ROWS[0]["document"], ""))
    token_ends = np.array(row["token_spans"])[:, 1]
    begin, found = 0, []
    for _, end in row["summary_sentences"]:
        its = (token_ends > begin) & (token_ends <= end)
        loss, begin = with_it[its].sum() - without[its].sum(), end
        found.append(max(0, abs(loss) - 2 * 0.01 * its.sum()) * np.sign(loss))
    assert len(found) > 2
    assert max(map(abs, found)) > 1
    np.testing.assert_allclose(row["weights"], np.array(found)[:, None], atol=1e-3)


def test_what_was_cut_is_marked_and_is_no_source(explained, generation):
    row = explained[1]["long"]
    made = next(x for x in generation.rows() if x["id"] == "long")
    assert made["truncated"]
    assert row["cut"] == list(range(row["cut"][0], len(row["document_sentences"])))
    assert not np.array(row["weights"])[:, row["cut"]].any()
    assert row["cut_in_two"] in ([], [row["cut"][0] - 1])


def test_the_explanation_is_checked_beside_others(explained):
    head, rows = explained
    found = head["faithfulness"]
    assert found["summaries"] == sum("check" in row for row in rows.values()) == 3
    for of in (found["lds"], *found["drop"].values()):
        assert set(of) in (set(), {"ablation", "leave_one_out", "alignment", "random"})
        for value in of.values():
            assert value["low"] <= value["value"] <= value["high"]
    assert "leave one out" in table(head)
    counts = [
        found["lds_summaries"],
        *(found["drop_summaries"][k] for k, of in found["drop"].items() if of),
    ]
    assert table(head).splitlines()[-1].split() == ["summaries", *map(str, counts)]
    assert head["cost"]["tokens_per_summary"] > 100


def test_a_larger_sample_takes_what_is_there_and_the_same_sample_is_the_same(
    explained, run_file, generation, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("an engine was started")

    monkeypatch.setattr("sumzero.infer.explain.Engines", refuse)
    config = load(run_file)
    few = explain(config, sample=4)
    some = [row["id"] for row in read_explanation(RunFolder.of(config))[1]]
    assert len(some) == few["sample"]["explained"] == 4
    assert few["cost"]["rows_made_now"] == 0
    smaller = load(run_file, ["explain.batched_tokens=32"])  # as for less memory
    assert explain(smaller, sample=4)["cost"]["rows_made_now"] == 0
    explain(config, sample=7)
    more = [row["id"] for row in read_explanation(RunFolder.of(config))[1]]
    assert set(some) < set(more)
    explain(config, sample=4)
    assert [row["id"] for row in read_explanation(RunFolder.of(config))[1]] == some


def _alike(one, other):
    """Whether two JSON values are the same, numbers but for what float32 in other batches makes."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[x], other[x]) for x in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return one == pytest.approx(other, abs=2e-3)


# The command, which dies once it has written so many rows.
DIES = """
import os, signal, sys
from contextlib import contextmanager
import sumzero.infer.explain
from sumzero.cli import main

appending = sumzero.infer.explain.appending
left = int(sys.argv.pop(1))

@contextmanager
def dying(file):
    with appending(file) as write:
        def write_or_die(row):
            global left
            write(row)
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        yield write_or_die

sumzero.infer.explain.appending = dying
main(sys.argv[1:])
"""


def test_killed_in_the_middle_it_goes_on_and_nothing_that_is_kept_is_asked_again(
    explained, run_file, generation
):
    """A real process, with its engine, dies by SIGKILL after some rows of all."""
    for file in generation.folder.glob("explained-*.jsonl"):
        file.unlink()
    num_kept = 4
    command = ["explain", str(run_file), "--sample", "50"]
    died = subprocess.run(  # until its engine has ended too, which holds stderr
        [sys.executable, "-c", DIES, str(num_kept), *command], stderr=subprocess.PIPE, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    (file,) = generation.folder.glob("explained-*.jsonl")
    kept = file.read_bytes()
    assert kept.count(b"\n") == num_kept < len(ROWS)

    assert main(command) == 0
    assert file.read_bytes().startswith(kept)
    assert file.read_bytes().count(b"\n") == len(ROWS)
    head, rows = read_explanation(RunFolder.of(load(run_file)))
    assert head["cost"]["rows_made_now"] == len(ROWS) - num_kept
    wanted_head, wanted = explained
    for made, left_alone in ((head, wanted_head), *zip(rows, wanted.values(), strict=True)):
        assert _alike({**made, "cost": None}, {**left_alone, "cost": None}), made
