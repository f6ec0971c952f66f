import json

import pytest

from sumzero.config import Data, Generate, RunConfig, Source
from sumzero.contract import make_contract
from sumzero.errors import ConfigError, DataError
from sumzero.infer.fingerprint import input_digest
from sumzero.infer.questions import asking, each_record, question_ids
from sumzero.prompt import PromptRenderer

SUMMARIZE = Source(path="train.jsonl")
ANSWER = Source(path="train.jsonl", task="answer", instruction="question")


@pytest.fixture
def renderer(tokenizer):
    return PromptRenderer(tokenizer)


@pytest.fixture
def contract(renderer):
    return make_contract(renderer, Data(train=(SUMMARIZE, ANSWER), length_control=True))


@pytest.fixture
def source_of(tmp_path):
    """Writes rows to a file and gives the source of it."""

    def made(name, rows, **values):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Source(path=str(file), **values)

    return made


def config(*sources, **generate):
    return RunConfig(name="run", data=Data(test=sources), generate=Generate(**generate))


def asked(run, contract):
    ask = asking(run, contract)
    return [ask(*pair) for pair in each_record(run.data.test, need_targets=False)]


def row(id_, **values):
    return {"id": id_, "document": "The cat sat.", **values}


def read(run):
    """The test records, and each one's source."""
    records, sources = zip(*each_record(run.data.test, need_targets=False), strict=True)
    return list(records), list(sources)


def test_records_of_several_sources_come_in_order_each_with_its_source(source_of):
    one = source_of("one.jsonl", [row("a"), row("b")])
    two = source_of("two.jsonl", [row("c", q="Who?")], task="answer", instruction="q")
    records, sources = read(config(one, two))
    assert [record.id for record in records] == ["a", "b", "c"]
    assert sources == [one, one, two]
    assert records[2].instruction == "Who?"


def test_an_id_of_two_sources_is_refused(source_of):
    one = source_of("one.jsonl", [row("a")])
    two = source_of("two.jsonl", [row("b"), row("a")])
    with pytest.raises(DataError, match=r"two\.jsonl:2: id 'a' is also in .*one\.jsonl"):
        read(config(one, two))


def test_each_record_is_asked_by_its_source_s_task_or_its_own_words(source_of, contract):
    plain = source_of("one.jsonl", [row("a")])
    asking = source_of("two.jsonl", [row("b", q="Who?")], task="answer", instruction="q")
    telling = source_of("three.jsonl", [row("c", q="Rhyme it.")], instruction="q")
    run = config(plain, asking, telling)
    assert asked(run, contract) == [
        "Summarize the text above.",
        "Answer the question from the text above. If the text does not answer it, say so.\n"
        "Question: {question}",
        "{question}",
    ]


def test_a_length_of_the_run_file_is_asked_for(source_of, contract, renderer):
    run = config(source_of("one.jsonl", [row("a")]), words=9)
    assert asked(run, contract) == ["Summarize the text above in at most 9 words."]
    untrained = make_contract(renderer, Data(train=(SUMMARIZE,)))
    with pytest.raises(ConfigError, match=r"not trained with data\.length_control"):
        asked(run, untrained)


def test_a_question_is_encoded_apart_and_left_out_where_there_is_no_place(renderer):
    read = renderer.tokenizer.decode
    assert read(question_ids(renderer, "Answer: {question}", "Who?")) == "\n\nAnswer: Who?"
    assert read(question_ids(renderer, "Sum up.", None)) == "\n\nSum up."
    assert read(question_ids(renderer, "{question}", "Rhyme it.")) == "\n\nRhyme it."


def test_the_input_s_digest_changes_with_everything_that_decides_a_prompt(source_of):
    run = config(source_of("one.jsonl", [row("a"), row("b")]))
    records, _ = read(run)
    changed, _ = read(config(source_of("two.jsonl", [row("a", document="New."), row("b")])))
    own, _ = read(
        config(source_of("three.jsonl", [row("a", q="x"), row("b", q="x")], instruction="q"))
    )
    digests = [
        input_digest(zip(some, texts, strict=True))
        for some, texts in (
            (records, ["", ""]),
            (records, ["Sum up.", "Sum up."]),
            (records, ["Sum up.", "Summarize."]),
            (records[::-1], ["Sum up.", "Sum up."]),
            (changed, ["Sum up.", "Sum up."]),
            (own, ["Sum up.", "Sum up."]),
        )
    ]
    assert len(set(digests)) == len(digests)
    again = read(run)[0]
    assert input_digest(zip(again, ["", ""], strict=True)) == digests[0]
