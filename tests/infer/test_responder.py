"""What a request asks is what `sumzero generate` asks; `complete` is the test's own."""

import asyncio
import json

import pytest

from sumzero.config import Data, Generate, RunConfig, Source
from sumzero.contract import make_contract
from sumzero.errors import ConfigError
from sumzero.infer.engine import Completion
from sumzero.infer.responder import Refused, Responder
from sumzero.prompt import PromptRenderer


@pytest.fixture
def responder(tokenizer):
    def make(*, max_new_tokens=16, finish_reason="stop", task="summarize", **data):
        source = Source(
            path="rows", task=task, instruction="question" if task == "answer" else None
        )
        config = RunConfig(
            name="run",
            data=Data(train=(source,), max_length=128, **data),
            generate=Generate(max_new_tokens=max_new_tokens),
        )
        renderer = PromptRenderer(tokenizer, config.data.truncation)
        asked = []

        async def complete(ids):
            asked.append(tokenizer.decode(ids))
            return Completion("id", " Text.\n", (1, 2), 2, finish_reason, 0.5)

        one = Responder(config, make_contract(renderer, config.data), renderer)
        one.complete = complete
        made.append(one)
        return one, asked

    made = []
    yield make
    for one in made:
        one.close()


def answer(one, **body):
    return asyncio.run(one.answer(json.dumps(body).encode(), one.complete))


def refusal(one, **body):
    with pytest.raises(Refused) as refused:
        answer(one, **body)
    return refused.value.status, refused.value.reason


def test_white_space_around_a_document_is_not_of_it_as_in_records(responder):
    one, asked = responder()
    assert answer(one, document=" \n The cat sat. ")["summary"] == "Text."
    answer(one, document="The cat sat.")
    assert asked[0] == asked[1]


def test_a_question_is_put_where_the_model_learnt_it(responder):
    one, asked = responder(task="answer", instruction="Answer: {question} Be short.")
    answer(one, document="The cat sat.", instruction="Who sat?")
    assert "The cat sat.\n\nAnswer: Who sat? Be short." in asked[0]
    status, reason = refusal(one, document="The cat sat.")
    assert (status, reason) == (400, "instruction: missing; this model answers a question")


def test_an_instruction_stands_as_it_is(responder):
    one, asked = responder()
    answer(one, document="The cat sat.", instruction="Say {question} and {length}.")
    assert "The cat sat.\n\nSay {question} and {length}." in asked[0]


@pytest.mark.parametrize("name", ["words", "sentences"])
def test_a_length_needs_a_model_trained_to_keep_it(responder, name):
    reason = f"{name}: the model was not trained to keep one; leave it out"
    assert refusal(responder()[0], document="a", **{name: 5}) == (400, reason)
    one, asked = responder(length_control=True)
    answer(one, document="a", **{name: 5})
    assert "5" in asked[0]
    one = responder(length_control=True, instruction="Sum up.")[0]
    assert refusal(one, document="a", **{name: 5}) == (
        400,
        f"{name}: the run's instructions have no length",
    )


@pytest.mark.parametrize("rule", ["drop", "error"])
def test_a_document_that_must_not_be_cut_is_refused(responder, rule):
    status, reason = refusal(responder(truncation=rule)[0], document="cat " * 500)
    assert status == 400
    assert reason.startswith("document: has ")
    assert reason.endswith(f'the run\'s rule of truncation is "{rule}"')


def test_an_instruction_that_leaves_no_room_is_refused(responder):
    reason = refusal(responder()[0], document="a", instruction="cat " * 500)[1]
    assert reason == "instruction: is too long; it leaves no room for a document"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_generation_that_was_broken_off_is_no_summary(responder, reason):
    assert refusal(responder(finish_reason=reason)[0], document="a")[0] == 503


def test_a_run_that_leaves_no_room_is_refused_at_the_start(responder):
    with pytest.raises(ConfigError, match="leaves no room for a document"):
        responder(max_new_tokens=127)
    with pytest.raises(ConfigError, match=r"of 16 at most \(data\.max_prompt\), which leaves no"):
        responder(max_prompt=16, instruction="Sum this up. " * 3)
