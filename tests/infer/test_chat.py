"""What a model of others is asked, and where."""

import json

import pytest

from sumzero.errors import ConfigError
from sumzero.infer.chat import Chat, Remote
from sumzero.infer.inputs import open_inputs
from sumzero.prompt import PromptRenderer, user_text
from sumzero.runfile import check
from sumzero.runfolder import RunFolder

DOCUMENT = "One two, three.  Four five six. 七八"  # 6 words and 2 characters


@pytest.fixture
def chat(tmp_path):
    def made(rows=({"id": "a", "document": DOCUMENT},), source=None, **sections):
        file = tmp_path / "test.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"test": {"path": str(file), **(source or {})}, **sections.pop("data", {})}
        values = {"name": "run", "runs": str(tmp_path / "runs"), "data": data, **sections}
        config = check(values, "run.toml")
        inputs = open_inputs(RunFolder.of(config).inputs, config.data.test)
        chat = Chat(config, Remote("m"), inputs)
        return chat, list(chat.each(inputs))

    return made


def content(body):
    (message,) = body["messages"]
    assert message["role"] == "user"
    return message["content"]


def test_the_text_has_the_tokens_of_a_trained_prompt(tokenizer):
    renderer = PromptRenderer(tokenizer)
    document = "The cat sat on the mat. It was warm."
    for asked, question in (("Sum up.", None), ("Answer: {question} Be short.", "Who sat?")):
        parts = renderer.encode_text([document])[0] + renderer.ask(asked, question)
        assert renderer.encode_text([user_text(document, asked, question)])[0] == parts


def test_it_is_asked_as_the_run_trains_or_in_a_rows_own_words(chat, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('task = "summarize"\nlanguage = "en"\nparaphrases = ["As trained."]\n')
    train = {"path": "train.jsonl", "instructions": str(own)}
    _, [(_, body)] = chat(data={"train": train})
    assert content(body) == f"{DOCUMENT}\n\nAs trained."
    rows = [{"id": "a", "document": "It is {question}.", "q": "Why {question}?"}]
    asks = {"task": "answer", "instruction": "q"}
    _, [(_, body)] = chat(rows, asks)
    assert content(body).startswith("It is {question}.\n\n")
    assert content(body).count("Why {question}?") == 1
    _, [(_, body)] = chat(rows, {"instruction": "q"})
    assert content(body) == "It is {question}.\n\nWhy {question}?"


def test_a_length_may_be_asked_for_of_a_model_that_we_have_not_trained(chat):
    _, [(_, plain)] = chat()
    _, [(_, short)] = chat(generate={"words": 17})
    assert "17" not in content(plain)
    assert "17" in content(short)


@pytest.mark.parametrize(
    ("rule", "most", "kept"),
    [
        ("head", 2, "One two,"),
        ("head", 3, "One two, three."),
        ("head_tail", 3, "One two, 八"),
        ("head_tail", 1, "One"),
        ("middle", 2, "Four five"),
        ("head", 8, DOCUMENT),
        ("drop", 8, DOCUMENT),
    ],
)
def test_a_document_is_cut_at_words_where_a_limit_is_set(chat, rule, most, kept):
    _, [(row, body)] = chat(
        data={"truncation": rule, "instruction": "Go."}, endpoint={"max_document": most}
    )
    assert content(body) == f"{kept}\n\nGo."
    assert row == {
        "id": "a",
        "document_words": 8,
        "document_words_kept": most,
        "truncated": kept != DOCUMENT,
        "truncation": rule,
    }


@pytest.mark.parametrize("rule", ["drop", "error"])
def test_a_document_that_may_not_be_cut_has_an_error_and_is_not_asked(chat, rule):
    _, [(row, body)] = chat(data={"truncation": rule}, endpoint={"max_document": 7})
    assert body is None
    assert row["error"] == "the document is too long: 8 words"


@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 5},
        {"top_k": 5},
        {"min_new_tokens": 5},
        {"repetition_penalty": 1.2},
        {"max_repeats": 4},
    ],
    ids=str,
)
def test_what_the_api_does_not_have_is_refused_by_name(chat, settings):
    with pytest.raises(ConfigError, match=f"generate.{next(iter(settings))}: OpenAI's API has no"):
        chat(generate=settings)


def test_documents_are_not_taken_apart(chat):
    with pytest.raises(ConfigError, match=r"generate\.long: .* set generate\.long=\"truncate\""):
        chat(generate={"long": "refine"})


def test_how_our_engine_works_is_no_matter_of_others(chat):
    _, [(_, plain)] = chat()
    ours = {"dtype": "float32", "tensor_parallel": 4, "prefix_caching": False, "engines": 2}
    made, [(_, body)] = chat(
        generate=ours | {"max_in_flight": 3, "speculative_tokens": 3, "long": "truncate"}
    )
    assert body == plain
    assert made.made_by == chat()[0].made_by


def test_sampling_and_what_a_server_is_not_to_be_told(chat):
    sampling = {"max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "frequency_penalty": 0.1}
    plain = chat()[0].made_by
    made, [(_, body)] = chat(
        generate=sampling,
        endpoint={"max_tokens_name": "max_tokens", "leave_out": ["seed", "top_p"]},
    )
    del body["messages"]
    assert body == {"model": "m", "max_tokens": 9, "temperature": 0.5, "frequency_penalty": 0.1}
    assert made.made_by != plain


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://Node7:8000/", "http://node7:8000/v1/chat/completions"),
        ("https://h/a/v1beta/openai/", "https://h/a/v1beta/openai/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1/chat/completions"),
    ],
)
def test_an_address_may_have_its_path(url, address):
    assert Remote.at(url, "m").address == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "ftp://h/v1",
        "https://",
        "http://h:port",
        "http://h:99999",
        "http://[::1",
        "http://h/v 1",
        "https://me:secret@h/v1",
        "https://secret@h",
        "https://h/v1?key=secret",
        "https://h/v1#secret",
    ],
)
def test_what_is_no_address_is_refused_without_saying_what_it_holds(url):
    with pytest.raises(ConfigError, match=r"^--endpoint: ") as caught:
        Remote.at(url, "m")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", " ", "finetuned", "echo", "a\nb"])
def test_a_name_that_scores_cannot_be_told_by_is_refused(name):
    with pytest.raises(ConfigError, match="--model"):
        Remote(name)
