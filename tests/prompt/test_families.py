"""Templates as the model families have them: only their structure, in words of these tests."""

from dataclasses import dataclass

import pytest
from tokenizers import AddedToken

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
    # The line break before an answer is not in the cue, and a turn ends where the next one begins.
    "glm": Style(
        "[gMASK]<sop>"
        "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        f"[gMASK]<sop><|user|>\n{USER}<|assistant|>",
        f"\n{TARGET}<|user|>",
        (("eos_token", "<|endoftext|>"),),
    ),
    "glm that can think": Style(
        "[gMASK]<sop>{% set quick = enable_thinking is defined and not enable_thinking %}"
        "{% for turn in messages %}{% if turn.role == 'user' %}<|user|>\n{{ turn.content }}"
        "{{ '/nothink' if quick and not turn.content.endswith('/nothink') }}"
        "{% else %}<|assistant|>\n<think></think>\n{{ turn.content.strip() }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}"
        "<|assistant|>{{ '\n<think></think>' if quick }}{% endif %}",
        ("[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
        f"[gMASK]<sop><|user|>\n{USER}/nothink<|assistant|>\n<think></think>",
        f"\n{TARGET}<|user|>",
        (("eos_token", "<|endoftext|>"),),
        ("<think>", "</think>"),
    ),
    # The last answer is left open; the others are ended.
    "chatml that goes on": Style(
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}"
        "{% if not loop.last or add_generation_prompt %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n",
        f"{TARGET}<|im_end|>",
        (("eos_token", "<|endoftext|>"),),
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
