import pytest
from tokenizers import AddedToken

from sumzero.errors import DataError
from sumzero.prompt import PromptRenderer

TEXTS = "{% for turn in messages %}{{ turn.content }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no user turns here') }}", "cannot be rendered: no user turns here"),
        ("{% for turn in messages %}", "cannot be rendered"),
        ("{{ messages[7].content.strip() }}", "cannot be rendered"),
        ("{{ 1 // 0 }}", "cannot be rendered"),
        ("<|im_start|>assistant\n", "does not render the user's and assistant's text once"),
        (
            "{% for turn in messages if turn.role != 'user' %}{{ turn.content }}{% endfor %}",
            "does not render the user's and assistant's text once",
        ),
        (
            "{% for turn in messages %}{{ turn.content }}{{ turn.content }}{% endfor %}",
            "does not render the user's and assistant's text once",
        ),
        (
            "{% for turn in messages %}{{ turn.content | upper }}{% endfor %}",
            "does not render the user's and assistant's text once",
        ),
        (TEXTS.replace("turn.content", "turn.content | e"), "it changes the user's"),
        (TEXTS.replace("turn.content", "turn.content.split('\n') | join(' ')"), "it changes"),
        (TEXTS.replace("turn.content", "turn.content.split('.')[0]"), "it changes the user's"),
        (TEXTS.replace("turn.content", "turn.content[:60]"), "it changes the user's"),
        (
            TEXTS + "{% if add_generation_prompt %}Answer:{% endif %}",
            "a conversation does not begin with the prompt that asks for it",
        ),
        (
            # A thinking block that its own template would leave in the answer.
            TEXTS + "{% if add_generation_prompt %}<think>\n{% endif %}",
            "a conversation does not begin with the prompt that asks for it",
        ),
        (
            "{% for turn in messages | reverse %}{{ turn.content }}{% endfor %}",
            "a conversation does not begin with the prompt that asks for it",
        ),
    ],
)
def test_a_template_that_cannot_be_trusted_is_refused(template, said, make):
    tokenizer = make("chatml")
    tokenizer.chat_template = template
    with pytest.raises(DataError) as caught:
        PromptRenderer(tokenizer)
    assert str(caught.value).startswith("chat template: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_that_read_otherwise_than_the_template_are_refused(make):
    """A token that takes the text before it as well: parts and whole cannot agree."""
    tokenizer = make("chatml")
    tokenizer.backend_tokenizer.add_tokens([AddedToken("up.<|im_end|>", normalized=False)])
    with pytest.raises(DataError, match=r"^chat template: prompt and target cannot be proven"):
        PromptRenderer(tokenizer)


NO_END = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_without_an_end_of_turn_in_the_template_eos_ends_it(make_byte_level):
    renderer = PromptRenderer(make_byte_level(NO_END, ["</s>"], eos_token="</s>"))
    assert renderer.end_ids == [renderer.tokenizer.eos_token_id] == renderer.stop_ids


def test_without_an_end_of_turn_and_eos_a_model_would_never_stop(make_byte_level):
    with pytest.raises(DataError, match="no end of turn follows"):
        PromptRenderer(make_byte_level(NO_END, []))


def test_a_template_that_writes_the_date_renders_the_same_every_day(tokenizer, make_byte_level):
    dated = make_byte_level(
        "{{ strftime_now('%d %b %Y %f') }}\n" + tokenizer.chat_template,
        ["<|end|>", "<|user|>", "<|assistant|>"],
        eos_token="<|end|>",
    )
    prompts = [PromptRenderer(dated).prompt([5, 6], 100, []).ids for _ in range(2)]
    assert prompts[0] == prompts[1]
    assert "01 Jan 2025" in dated.decode(prompts[0])


@pytest.mark.parametrize("scheme", ["normalizer", "first", "always"])
def test_a_space_that_the_tokenizer_puts_before_an_answer_is_learnt_with_it(scheme, make):
    tokenizer = make("word_prefix", scheme=scheme)
    renderer = PromptRenderer(tokenizer)
    text = "<s>[INST] The cat sat.\n\nSum up.[/INST] A cat.</s>"
    whole = tokenizer.encode(text, add_special_tokens=False)
    (learnt,) = renderer.encode_targets(["A cat."])
    assert learnt == whole[-len(learnt) :]
    assert renderer.prompt([], 100, []).ids[-1] == whole[-len(learnt) - 1]
    assert tokenizer.decode(learnt) in ("A cat.</s>", " A cat.</s>")
