"""The judge: a model of ours against transformers' log-probabilities, and one that others serve."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sumzero.errors import ConfigError, DataError, RunError
from sumzero.infer.generate import generate
from sumzero.infer.generation import finished_generations
from sumzero.infer.judge import QUESTION, Judge, answer_ids
from sumzero.infer.row_scores import read_row_scores
from sumzero.infer.score import score
from sumzero.infer.score_table import details
from sumzero.prompt import PromptRenderer, user_text
from sumzero.runfile import check
from sumzero.runfolder import RunFolder

from .chat_server import ChatServer, failure
from .nli_models import write_knowing
from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
DOCUMENTS = ["The cat sat on the mat. It was warm.", "A model reads the document once.", "Snow."]
SUMMARIES = ["A cat sat.", "It reads\nonce.", "Nothing <|im_end|> fell."]


def settings(tmp_path, **of_score):
    values = {
        "name": "run",
        "runs": str(tmp_path / "runs"),
        "generate": {"dtype": "float32", "cpu_kv_cache_gib": 0.1, "max_in_flight": 8},
        "score": {"bootstrap": 100, **of_score},
    }
    return check(values, "run.toml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("judge")


@pytest.fixture(scope="module")
def model(folder, tokenizer):
    return write_model(folder, tokenizer)


@pytest.fixture(scope="module")
def judged(folder, model):
    """What a judge says, and what it asks; one engine for all."""
    plain = settings(folder, judge=str(folder))
    # How the run's own summaries are searched for is nothing to a judge.
    config = replace(plain, generate=replace(plain.generate, beams=2))
    long = "The cat sat on the mat. " * 100
    with Judge(config) as judge:
        first = judge.score([*DOCUMENTS, long, "Snow."], [*SUMMARIES, "A cat sat.", " "])
        again = judge.score([DOCUMENTS[0]] * 3, [SUMMARIES[0], "The dog ran.", SUMMARIES[0]])
        prompts = [judge._ours.prompt(*pair) for pair in zip(DOCUMENTS, SUMMARIES, strict=True)]
        return first, again, prompts, judge.signature


def test_it_is_the_share_of_yes_that_transformers_gives(judged, model, tokenizer):
    first, _, prompts, _ = judged
    yes, no = answer_ids(PromptRenderer(tokenizer))
    for ids, found in zip(prompts, first, strict=False):
        with torch.inference_mode():
            chances = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        p_yes, p_no = chances[yes].sum().item(), chances[no].sum().item()
        assert found == pytest.approx(p_yes / (p_yes + p_no), abs=1e-5)
    assert len(set(first[:3].round(4))) == 3


def test_the_same_question_has_the_same_answer_with_and_without_the_prefix_cache(judged):
    first, again, _, _ = judged
    assert again[0] == pytest.approx(first[0], abs=1e-6)
    assert again[2] == pytest.approx(again[0], abs=1e-6)
    assert again[1] != pytest.approx(again[0], abs=1e-6)


def test_what_does_not_fit_and_what_has_no_word_is_not_judged(judged):
    assert np.isnan(judged[0][3:]).all()


def test_the_document_comes_first_and_a_text_has_no_control_tokens(judged, tokenizer):
    *_, prompts, signature = judged
    read = [tokenizer.decode(ids) for ids in prompts]
    for text, document, summary in zip(read, DOCUMENTS, SUMMARIES, strict=True):
        said = user_text(document, QUESTION, " ".join(summary.split()))
        assert said in text
    marks = [sum(id_ in tokenizer.all_special_ids for id_ in ids) for ids in prompts]
    assert len(set(marks)) == 1
    assert "prompt:" in signature
    assert "by:vllm" in signature


def test_words_are_told_apart_by_their_first_tokens(tokenizer):
    renderer = PromptRenderer(tokenizer)
    yes, no = answer_ids(renderer)
    assert yes
    assert no
    assert not {*yes} & {*no}

    class Blind:
        def encode_text(self, texts):
            return [[7, number] for number, _ in enumerate(texts)]

    with pytest.raises(DataError, match="begins yes and no with the same token"):
        answer_ids(Blind())


def said(likeliest):
    """A completion with the log-probabilities of its first token's alternatives."""
    top = [{"token": token, "logprob": math.log(p)} for token, p in likeliest.items()]
    logprobs = {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": top}]}
    message = {"role": "assistant", "content": "yes"}
    return {"choices": [{"index": 0, "message": message, "logprobs": logprobs}]}


def test_a_model_of_others_is_asked_for_its_likeliest_tokens(tmp_path, caplog):
    def reply(text, attempt):
        if "dog" in text:
            return 400, failure("too long"), {}
        if "Snow" in text:
            return said({"Maybe": 0.9})
        return said({"Yes": 0.4, " yes": 0.2, "no": 0.1, "NO": 0.1, "Yesterday": 0.2})

    with ChatServer(reply) as server:
        config = settings(tmp_path, judge="gpt-x", judge_endpoint=server.url)
        with Judge(config) as judge:
            found = judge.score(["The cat sat.", "A cat ran.", "Snow."], ["Cat.", "A dog.", "It."])
    assert found[0] == pytest.approx(0.6 / 0.8)
    assert np.isnan(found[1:]).all()
    assert "2 summaries were not judged" in caplog.text
    path, body = next(one for one in server.asked if "Cat." in str(one))
    assert path == "/v1/chat/completions"
    assert body.pop("messages") == [
        {"role": "user", "content": user_text("The cat sat.", QUESTION, "Cat.")}
    ]
    asked = {"logprobs": True, "top_logprobs": 20, "max_completion_tokens": 1}
    assert body == {"model": "gpt-x", "temperature": 0.0, "seed": 0, **asked}
    assert judge.signature.startswith("model:gpt-x|by:endpoint|prompt:")


def test_a_server_that_gives_no_log_probabilities_is_named(tmp_path):
    plain = {"choices": [{"message": {"content": "yes"}}]}
    with ChatServer(lambda *_: plain) as server:
        values = {"name": "run", "runs": str(tmp_path), "endpoint": {"max_retries": 0}}
        values["score"] = {"judge": "m", "judge_endpoint": server.url}
        config = check(values, "run.toml")
        with Judge(config) as judge, pytest.raises(RunError, match="no log-probabilities"):
            judge.score(["a", "b"], ["c", "d"])


def test_an_answer_is_paid_for_once(tmp_path):
    fails = True

    def reply(text, attempt):
        if "dog" in text and fails:
            return 400, failure("not now"), {}
        return said({"yes": 0.5} if "cat" in text else {"yes": 0.25, "no": 0.25})

    with ChatServer(reply) as server:
        config = settings(tmp_path, judge="m", judge_endpoint=server.url)
        documents, summaries = ["The cat.", "A dog.", "The cat."], ["Cat.", "Dog.", " Cat.\n"]
        with Judge(config) as judge:
            first = judge.score(documents, summaries)
        assert len(server.asked) == 2  # the same question once
        np.testing.assert_array_equal(first, [1, np.nan, 1])
        (file,) = (RunFolder.of(config).root / "judged").glob("*.jsonl")
        with file.open("a") as out:
            out.write('{"of": 7}\n{"of": "x", "ye')  # a kill
        fails = False
        with Judge(config) as judge:
            again = judge.score([*documents, "Rain."], [*summaries, "It fell."])
            with pytest.raises(RunError, match="another `sumzero score` is at work"):
                Judge(config).__enter__()
        new = sorted(body["messages"][0]["content"][:5] for _, body in server.asked[2:])
        assert new == ["A dog", "Rain."]
        np.testing.assert_array_equal(again, [1, 0.5, 1, 0.5])
        with Judge(settings(tmp_path, judge="other", judge_endpoint=server.url)) as judge:
            judge.score(documents[:1], summaries[:1])
        assert server.asked[-1][1]["model"] == "other"


@pytest.mark.parametrize("logprob", [1e9, math.nan])
def test_log_probabilities_that_are_none_are_not_taken(tmp_path, logprob):
    reply = said({"yes": 0.5})
    reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]["logprob"] = logprob
    remote = Judge(settings(tmp_path, judge="m", judge_endpoint="http://localhost:1"))._theirs
    with pytest.raises(ValueError, match="log-probabilities are none"):
        remote.read(reply)


def test_a_server_without_a_model_is_refused():
    with pytest.raises(ConfigError, match="judge_endpoint needs the model's name"):
        check({"name": "run", "score": {"judge_endpoint": "http://x"}}, "run.toml")


def test_a_name_that_is_none_is_told_by_its_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"^score\.judge 'untrained': is no name"):
        Judge(settings(tmp_path, judge="untrained", judge_endpoint="http://localhost"))


def test_an_address_that_is_none_is_told_by_its_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"score\.judge_endpoint: is no address"):
        Judge(settings(tmp_path, judge="m", judge_endpoint="localhost"))


def test_scoring_has_both_metrics_with_intervals_where_they_are_set(tmp_path):
    rows = [
        {"id": "a", "document": "The cat sat. It was warm.", "target": "A cat sat."},
        {"id": "b", "document": "The dog ran. Rain fell.", "target": "A dog ran."},
        {"id": "c", "document": "...", "target": "Snow fell."},
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    nli = write_knowing(tmp_path / "nli")
    with ChatServer(lambda *_: said({"yes": 0.75, "no": 0.25})) as server:
        values = {
            "name": "run",
            "runs": str(tmp_path / "runs"),
            "data": {"test": {"path": str(tmp_path / "test.jsonl")}},
            "score": {"bootstrap": 100, "nli": nli}
            | {"judge": "gpt-x", "judge_endpoint": server.url},
        }
        config = check(values, "run.toml")
        generate(config, "lead1")
        generate(config, "echo")
        found = score(config)
    scores = found["systems"]
    shown = [line.split()[:2] for line in details(found).splitlines()]
    assert ["judge", "75.00"] in shown
    assert "nli" in [name for name, *_ in shown]
    for system in ("lead1", "echo"):
        found = scores[system]["metrics"]
        assert found["judge"]["value"] == 75
        # The sentence of a document that names its subject is entailed by it.
        assert found["nli"]["low"] <= found["nli"]["value"] <= found["nli"]["high"]
        assert found["nli"]["signature"].startswith("model:nli@")
    made = finished_generations(RunFolder.of(config))["lead1"]
    table = read_row_scores(made)
    np.testing.assert_allclose(table.columns["nli"][:2], [100, 100], atol=0.1)
    assert table.signatures["judge"] == scores["lead1"]["metrics"]["judge"]["signature"]
    plain = check({**values, "score": {"bootstrap": 100}}, "run.toml")
    assert "nli" not in score(plain)["systems"]["lead1"]["metrics"]
