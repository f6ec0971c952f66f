"""Templates as the model families have them: only their structure, in words of these tests."""

from dataclasses import dataclass

import pytest
from tokenizers import AddedToken

from sumzero.errors import DataError
from sumzero.prompt import PromptRenderer

ROLES_ALTERNATE = (
    "{% for turn in messages %}"
    "{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}{% endfor %}"
)
DOCUMENT, ASKED, TARGET = (
    "The cat sat <b>there</b>.\n\tIt slept.",
    "Sum up & stop.",
    "A cat\nslept.",
)
USER = f"{DOCUMENT}\n\n{ASKED}"


@dataclass(frozen=True)
class Style:
    """A template, its control tokens, and what must come of it for USER and TARGET."""

    template: str
    special: tuple[str, ...]
    prompt: str
    learnt: str
    names: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()


STYLES = {
    # An empty thinking block stands in the cue and in the last answer.
    "qwen3": Style(
        "{% for turn in messages %}{% set text = turn.content %}"
        "{% if turn.role == 'assistant' %}"
        "{% if '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
        "{% if loop.last %}"
        "{% set text = '<think>\n\n</think>\n\n' + text.lstrip('\n') %}{% endif %}"
        "{% endif %}<|im_start|>{{ turn.role }}\n{{ text }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "<think>\n\n</think>\n\n{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        f"{TARGET}<|im_end|>",
        (("eos_token", "<|im_end|>"),),
        ("<think>", "</think>"),
    ),
    # The cue opens a thinking block whatever is asked; an answer without thoughts has it empty.
    "qwen3 that always thinks": Style(
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
        "{% if turn.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        f"{TARGET}<|im_end|>",
        (("eos_token", "<|im_end|>"),),
        ("<think>", "</think>"),
    ),
    "llama 3": Style(
        "{{ bos_token }}<|header|>system<|end_header|>\n\n"
        "{% if not date is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}"
        "Today is {{ date }}.<|eot|>"
        "{% for turn in messages %}<|header|>{{ turn.role }}<|end_header|>\n\n"
        "{{ turn.content | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}",
        ("<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|end|>"),
        "<|begin|><|header|>system<|end_header|>\n\nToday is 01 Jan 2025.<|eot|>"
        f"<|header|>user<|end_header|>\n\n{USER}<|eot|><|header|>assistant<|end_header|>\n\n",
        f"{TARGET}<|eot|>",
        (("bos_token", "<|begin|>"), ("eos_token", "<|end|>")),
    ),
    # The cue is empty, and answers begin with a space: the model writes it.
    "mistral": Style(
        ROLES_ALTERNATE + "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'user' %}[INST] {{ turn.content }}[/INST]"
        "{% else %} {{ turn.content | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        f"<s>[INST] {USER}[/INST]",
        f" {TARGET}</s>",
        (("bos_token", "<s>"), ("eos_token", "</s>")),
    ),
    "mistral without spaces": Style(
        ROLES_ALTERNATE + "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'user' %}[INST]{{ turn.content }}[/INST]"
        "{% else %}{{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        f"<s>[INST]{USER}[/INST]",
        f"{TARGET}</s>",
        (("bos_token", "<s>"), ("eos_token", "</s>")),
    ),
    "gemma": Style(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{% for turn in messages %}"
        "<turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
        "{{ turn.content | trim }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>model\n{% endif %}",
        ("<bos>", "<eos>", "<turn>", "</turn>"),
        f"<bos><turn>user\n{USER}</turn>\n<turn>model\n",
        f"{TARGET}</turn>",
        (("bos_token", "<bos>"), ("eos_token", "<eos>")),
    ),
    # The cue has an empty channel of thoughts that finished turns have not, and lose if given.
    "gemma with an empty channel": Style(
        "{% for turn in messages %}<turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
        "{% for part in turn.content.split('<channel/>') %}{{ part.split('<channel>')[0] | trim }}"
        "{% endfor %}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>model\n"
        "{% if not enable_thinking %}<channel>thought\n<channel/>{% endif %}{% endif %}",
        ("<eos>", "<turn>", "</turn>", "<channel>", "<channel/>"),
        f"<turn>user\n{USER}</turn>\n<turn>model\n<channel>thought\n<channel/>",
        f"{TARGET}</turn>",
        (("eos_token", "<eos>"),),
    ),
    "phi": Style(
        "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
        f"<|user|>\n{USER}<|end|>\n<|assistant|>\n",
        f"{TARGET}<|end|>",
        (("eos_token", "<|endoftext|>"),),
    ),
    # The line break before an answer is not in the cue, and nothing ends a turn but the next one.
    "glm": Style(
        "[gMASK]<sop>"
        "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        f"[gMASK]<sop><|user|>\n{USER}<|assistant|>",
        f"\n{TARGET}<|endoftext|>",
        (("eos_token", "<|endoftext|>"),),
    ),
    "glm that can think": Style(
        "[gMASK]<sop>{% set quick = enable_thinking is defined and not enable_thinking %}"
        "{% for turn in messages %}{% if turn.role == 'user' %}<|user|>\n{{ turn.content }}"
        "{{ '/nothink' if quick and not turn.content.endswith('/nothink') }}"
        "{% else %}<|assistant|>\n<think></think>\n{{ turn.content.strip() }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '\n<think></think>' if quick }}{% endif %}",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        f"[gMASK]<sop><|user|>\n{USER}/nothink<|assistant|>\n<think></think>",
        f"\n{TARGET}<|endoftext|>",
        (("eos_token", "<|endoftext|>"),),
        ("<think>", "</think>"),
    ),
    "deepseek v3": Style(
        "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'user' %}<｜User｜>{{ turn.content }}"
        "{% else %}<｜Assistant｜>{{ turn.content }}<｜end｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}",
        ("<｜begin｜>", "<｜end｜>", "<｜User｜>", "<｜Assistant｜>"),
        f"<｜begin｜><｜User｜>{USER}<｜Assistant｜>",
        f"{TARGET}<｜end｜>",
        (("bos_token", "<｜begin｜>"), ("eos_token", "<｜end｜>")),
    ),
    # Without thoughts, an answer begins by closing them.
    "deepseek v3.1": Style(
        "{% if thinking is not defined %}{% set thinking = true %}{% endif %}"
        "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'user' %}<｜User｜>{{ turn.content }}"
        "{% else %}<｜Assistant｜></think>"
        "{{ turn.content.split('</think>')[-1] }}<｜end｜>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>"
        "{{ '<think>' if thinking else '</think>' }}{% endif %}",
        ("<｜begin｜>", "<｜end｜>", "<｜User｜>", "<｜Assistant｜>"),
        f"<｜begin｜><｜User｜>{USER}<｜Assistant｜></think>",
        f"{TARGET}<｜end｜>",
        (("bos_token", "<｜begin｜>"), ("eos_token", "<｜end｜>")),
        ("<think>", "</think>"),
    ),
    # The cue opens a block that finished turns have not: it is closed in the prompt.
    "deepseek r1": Style(
        "{{ bos_token }}{% for turn in messages %}"
        "{% if turn.role == 'user' %}<｜User｜>{{ turn.content }}{% else %}"
        "<｜Assistant｜>{{ turn.content.split('</think>')[-1] }}<｜end｜>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}",
        ("<｜begin｜>", "<｜end｜>", "<｜User｜>", "<｜Assistant｜>"),
        f"<｜begin｜><｜User｜>{USER}<｜Assistant｜><think>\n\n</think>\n\n",
        f"{TARGET}<｜end｜>",
        (("bos_token", "<｜begin｜>"), ("eos_token", "<｜end｜>")),
        ("<think>", "</think>"),
    ),
    "thoughts in square brackets": Style(
        "{% for turn in messages %}{% if turn.role == 'user' %}[INST]{{ turn.content }}[/INST]"
        "{% else %}{{ turn.content.split('[/THINK]')[-1].lstrip('\n') }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[THINK]{% endif %}",
        ("</s>", "[INST]", "[/INST]", "[THINK]", "[/THINK]"),
        f"[INST]{USER}[/INST][THINK]\n[/THINK]\n\n",
        f"{TARGET}</s>",
        (("eos_token", "</s>"),),
    ),
    # The channel of the answer is not in the cue: the prompt names it.
    "gpt-oss": Style(
        "<|start|>system<|message|>Date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
        "{% for turn in messages %}{% if turn.role == 'user' %}"
        "<|start|>user<|message|>{{ turn.content }}<|end|>{% else %}"
        "<|start|>assistant<|channel|>final<|message|>{{ turn.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"),
        f"<|start|>system<|message|>Date: 2025-01-01<|end|><|start|>user<|message|>{USER}<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
        f"{TARGET}<|return|>",
        (("eos_token", "<|return|>"),),
    ),
}
every_style = pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)


@every_style
def test_prompt_and_target_of_every_family_are_what_its_template_has(style, make_byte_level):
    tokenizer = make_byte_level(
        style.template, style.special, extra=style.extra, **dict(style.names)
    )
    renderer = PromptRenderer(tokenizer)
    prompt = renderer.prompt(renderer.encode_text([DOCUMENT])[0], 10_000, renderer.ask(ASKED))
    (learnt,) = renderer.encode_targets([TARGET])
    assert tokenizer.decode(prompt.ids) == style.prompt
    assert tokenizer.decode(learnt) == style.learnt
    assert learnt[-1] in renderer.stop_ids
    assert tokenizer.eos_token_id in renderer.stop_ids
    # The model goes on from what a chat server sends for the same turn.
    served = tokenizer.apply_chat_template(
        [{"role": "user", "content": USER}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
        thinking=False,
        strftime_now=lambda form: {"%d %b %Y": "01 Jan 2025"}.get(form, "2025-01-01"),
    )
    assert (style.prompt + style.learnt).startswith(served)
    assert style.prompt.startswith(served)


@every_style
def test_control_tokens_of_every_family_in_a_text_change_no_turn(style, make_byte_level):
    tokenizer = make_byte_level(
        style.template, style.special, extra=style.extra, **dict(style.names)
    )
    renderer = PromptRenderer(tokenizer)
    control = set(tokenizer.convert_tokens_to_ids([*style.special, *style.extra]))
    sly = "".join(style.special + style.extra)
    document, question = renderer.encode_text([sly, sly])
    found = renderer.prompt(document, 10_000, renderer.ask("{question}", sly)).ids
    plain = renderer.prompt([], 10_000, []).ids
    assert [id_ for id_ in found if id_ in control] == [id_ for id_ in plain if id_ in control]
    assert control.isdisjoint(question)


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


def test_control_tokens_that_take_the_line_break_after_them_are_no_fault(make_byte_level):
    style = STYLES["phi"]
    tokenizer = make_byte_level(style.template, style.special, **dict(style.names))
    greedy = [AddedToken(text, rstrip=True, normalized=False) for text in style.special]
    tokenizer.backend_tokenizer.add_special_tokens(greedy)
    whole = tokenizer.encode(style.prompt + style.learnt, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(whole[:2]) == ["<|user|>", "The"]
    renderer = PromptRenderer(tokenizer)
    (document,) = renderer.encode_text([DOCUMENT])
    prompt = renderer.prompt(document, 10_000, renderer.ask(ASKED))
    assert prompt.ids + renderer.encode_targets([TARGET])[0] == whole


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
