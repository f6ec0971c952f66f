import copy
import json
import string
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from sumzero.errors import DataError
from sumzero.prompt import PromptRenderer, Truncation, load_tokenizer

RULES = ("head", "head_tail", "middle", "drop", "error")
LETTERS = string.ascii_letters + string.digits + string.punctuation
CORPUS = [
    "The cat sat on the mat. It was warm.\n\nAnother  paragraph, with two spaces.",
    "def get_name(x):\n    return x  # <b>bold</b>",
    " ".join(LETTERS),
] * 3
CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% if turn.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\nWell, {% endif %}"
    "{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for turn in messages %}"
    "<|header|>{{ turn.role }}<|end_header|>\n\n{{ turn.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
)
PLAIN = (
    "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n"
    "{% if turn.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_level(special, extra=(), **model):
    bpe = Tokenizer(models.BPE(**model))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    bpe.add_tokens([AddedToken(token, normalized=False) for token in extra])
    return bpe


def fast(backend, template, **special):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = template
    return tokenizer


def chatml():
    """Qwen's way: control tokens behind the vocabulary, some of them not marked as special."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = byte_level(special, ["<tool_call>", "</tool_call>"])
    return fast(backend, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def thinking():
    """Qwen3's way: an empty thinking block is part of the prompt where thinking is off."""
    backend = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<think>", "</think>"])
    return fast(backend, THINKING, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def headers():
    """Llama 3's way: a BOS from the template and from the tokenizer, and an end apart from EOS."""
    special = ["<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|end|>"]
    backend = byte_level(special, ignore_merges=True)
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", backend.token_to_id("<|begin|>"))]
    )
    return fast(backend, HEADERS, bos_token="<|begin|>", eos_token="<|end|>")


def learned():
    """A vocabulary whose merges build a control token, from text that was full of it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["a<|end|>b", "c<|end|>d", "<|end|>\n"] * 20,
        trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False),
    )
    assert bpe.encode("x<|end|>y").tokens[1] == "<|end|>"
    bpe.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return fast(bpe, PLAIN, eos_token="<|end|>")


def byte_fallback():
    """Gemma's way: bytes for unknown characters, line breaks and runs of spaces as added tokens."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Replace(" ", "\u2581")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = ["<unk>", "<eos>", "<turn>", "</turn>"]
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False)
    )
    state = json.loads(bpe.to_str())
    state["added_tokens"] = [row for row in state["added_tokens"] if row["content"] in control]
    bpe = Tokenizer.from_str(json.dumps(state))
    assert bpe.token_to_id("\n") is not None
    bpe.add_tokens([AddedToken(run, normalized=False) for run in ("\n", "\n\n", "\u2581\u2581")])
    template = (
        "{% for turn in messages %}<turn>{{ turn.role }}\n{{ turn.content }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
    return fast(bpe, template, eos_token="<eos>", unk_token="<unk>")


def unigram():
    """The sentence-piece way: control tokens are pieces of the vocabulary, and likely ones."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=150,
            special_tokens=["<unk>", "</s>", "[TURN]", "[NOTE]"],
            unk_token="<unk>",
            initial_alphabet=list(LETTERS),
            show_progress=False,
        ),
    )
    state = json.loads(backend.to_str())
    (note,) = (row for row in state["added_tokens"] if row["content"] == "[NOTE]")
    note["special"] = False  # as Qwen has its thinking and tool marks
    backend = Tokenizer.from_str(json.dumps(state))
    template = (
        "{% for turn in messages %}[TURN]{{ turn.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}[TURN]{% endif %}"
    )
    return fast(backend, template, eos_token="</s>", unk_token="<unk>")


def word_piece(eos="[SEP]"):
    """BERT's way: whole words in brackets are pieces, and unknown words are one token."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        CORPUS,
        trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[UNK]", "[SEP]", "[TURN]"], show_progress=False
        ),
    )
    template = (
        "{% for turn in messages %}[TURN] {{ turn.content }} [SEP]{% endfor %}"
        "{% if add_generation_prompt %}[TURN] {% endif %}"
    )
    return fast(backend, template, eos_token=eos, unk_token="[UNK]")


LOSSLESS = (chatml, thinking, headers, learned, byte_fallback)
ALL = (*LOSSLESS, unigram, word_piece)
CONTROL = {
    chatml: ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
    thinking: ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    headers: ("<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|end|>"),
    learned: ("<|end|>",),
    byte_fallback: ("<eos>", "<turn>", "</turn>"),
    unigram: ("</s>", "[TURN]", "[NOTE]"),
    word_piece: ("[SEP]", "[TURN]"),
}
every_tokenizer = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
lossless_tokenizer = pytest.mark.parametrize("make", LOSSLESS, ids=lambda make: make.__name__)


@cache
def renderer_of(make, rule="head"):
    return PromptRenderer(make(), "Summarize the text above.", rule)


def control_ids(make):
    return set(renderer_of(make).tokenizer.convert_tokens_to_ids(list(CONTROL[make])))


def texts(make, alphabet):
    """Text with control strings in it, whole, cut, and one inside the other."""
    strings = CONTROL[make]
    pieces = st.one_of(
        st.text(alphabet, max_size=6),
        st.sampled_from(strings),
        st.sampled_from([text[: len(text) // 2] for text in strings]),
        st.sampled_from([text[len(text) // 2 :] for text in strings]),
        st.sampled_from([text[:2] + text + text[2:] for text in strings]),
    )
    return st.lists(pieces, max_size=8).map("".join)


ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")


@every_tokenizer
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_of_a_user_becomes_a_control_token(make, data):
    text = data.draw(texts(make, ANY))
    (ids,) = renderer_of(make).encode_text([text])
    assert control_ids(make).isdisjoint(ids)


@lossless_tokenizer
@settings(max_examples=60)
@given(data=st.data())
def test_text_comes_back_from_its_tokens_character_by_character(make, data):
    text = data.draw(texts(make, ANY))
    renderer = renderer_of(make)
    assert renderer.tokenizer.decode(renderer.encode_text([text])[0]) == text


@settings(max_examples=60)
@given(texts(unigram, st.sampled_from(LETTERS + " ")))
def test_a_vocabulary_with_control_strings_among_its_pieces_loses_nothing_either(text):
    renderer = renderer_of(unigram)
    (ids,) = renderer.encode_text([text])
    assert renderer.tokenizer.unk_token_id not in ids
    # White space before the first word is not kept by this kind of tokenizer.
    assert renderer.tokenizer.decode(ids).lstrip(" ") == text.lstrip(" ")


@every_tokenizer
def test_the_control_strings_of_these_tests_are_control_tokens_in_a_template(make):
    tokenizer = renderer_of(make).tokenizer
    for text in CONTROL[make]:
        assert tokenizer.encode(text, add_special_tokens=False) == [
            tokenizer.convert_tokens_to_ids(text)
        ]


@pytest.mark.parametrize("make", [unigram, word_piece], ids=lambda make: make.__name__)
def test_unknown_characters_are_no_fault(make):
    renderer = renderer_of(make)
    (ids,) = renderer.encode_text(["The cat \U0001f600 sat."])
    assert renderer.tokenizer.unk_token_id in ids
    assert len(ids) > 2


def test_unknown_characters_that_would_end_the_text_are_told():
    renderer = PromptRenderer(word_piece(eos="[UNK]"), "The cat")
    assert renderer.encode_text(["The cat sat"])
    with pytest.raises(DataError, match=r"it can only encode as \[UNK\]"):
        renderer.encode_text(["The cat", "\U0001f600"])


def test_line_breaks_stay_text_where_a_tokenizer_adds_them_as_tokens():
    renderer = renderer_of(byte_fallback)
    text = "one\ntwo\n\nthree  four"
    (ids,) = renderer.encode_text([text])
    assert renderer.tokenizer.convert_tokens_to_ids("\n") in ids
    assert renderer.tokenizer.decode(ids) == text


def test_texts_are_encoded_each_for_itself():
    renderer = renderer_of(chatml)
    some = ["one", "", "<|im_end|>", "two\0three"]
    assert renderer.encode_text(some) == [renderer.encode_text([text])[0] for text in some]
    assert renderer.encode_text([]) == []


@lossless_tokenizer
def test_prompt_target_and_end_are_what_the_template_makes_of_the_conversation(make):
    renderer = renderer_of(make)
    document, target = "The cat sat.\nIt slept.", "A cat\nslept."
    (ids,) = renderer.encode_text([document])
    prompt = renderer.prompt(ids, 10_000)
    whole = [*prompt.ids, *renderer.encode_text([target])[0], *renderer.end_ids]
    turns = [
        {"role": "user", "content": f"{document}\n\n{renderer.instruction}"},
        {"role": "assistant", "content": target},
    ]
    apply = renderer.tokenizer.apply_chat_template
    conversation = apply(turns, tokenize=False, enable_thinking=False)
    decoded = renderer.tokenizer.decode(whole)
    assert conversation.startswith(decoded)
    assert conversation[len(decoded) :].strip() == ""  # what stands after the end of turn
    asked = apply(turns[:1], tokenize=False, enable_thinking=False, add_generation_prompt=True)
    assert renderer.tokenizer.decode(prompt.ids) == asked


def test_an_empty_thinking_block_is_part_of_the_prompt_and_not_of_the_target():
    renderer = renderer_of(thinking)
    text = renderer.tokenizer.decode(renderer.prompt([], 1000).ids)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_template_that_begins_with_bos_gives_one_bos():
    renderer = renderer_of(headers)
    ids = renderer.prompt(renderer.encode_text(["The cat."])[0], 1000).ids
    assert ids[0] == renderer.tokenizer.bos_token_id
    assert ids.count(renderer.tokenizer.bos_token_id) == 1


@every_tokenizer
def test_the_end_of_turn_is_where_generation_stops(make):
    renderer = renderer_of(make)
    assert renderer.end_ids[-1] in renderer.stop_ids
    assert renderer.end_ids[-1] in control_ids(make)
    assert renderer.tokenizer.eos_token_id in renderer.stop_ids
    assert renderer.stop_ids == sorted(set(renderer.stop_ids))


def test_an_end_of_turn_apart_from_eos_stops_generation_too():
    renderer = renderer_of(headers)
    assert renderer.tokenizer.convert_ids_to_tokens(renderer.end_ids) == ["<|eot|>"]
    stops = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_ids)
    assert set(stops) == {"<|eot|>", "<|end|>"}


def test_control_strings_in_an_instruction_stay_text_and_end_no_turn():
    plain, sly = (PromptRenderer(chatml(), text) for text in ("Go.", "<|im_end|>\n<tool_call>"))
    end = plain.end_ids[-1]
    assert sly.prompt([], 1000).ids.count(end) == plain.prompt([], 1000).ids.count(end)
    own = plain.prompt([], 1000, "<|im_end|> Go.").ids
    assert own.count(end) == plain.prompt([], 1000).ids.count(end)
    assert "<|im_end|> Go." in plain.tokenizer.decode(own)


def frame(renderer, instruction=None):
    """The tokens before and after the document of a prompt: nothing may ever cut them."""
    mark = 999_999
    ids = renderer.prompt([mark], 10_000, instruction).ids
    assert ids.count(mark) == 1
    return ids[: ids.index(mark)], ids[ids.index(mark) + 1 :]


@every_tokenizer
def test_the_fixed_part_is_template_and_instruction(make):
    renderer = renderer_of(make)
    for instruction in (None, "Say it in another way, please."):
        before, after = frame(renderer, instruction)
        assert renderer.fixed_tokens(instruction) == len(before) + len(after)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=150)
@given(
    length=st.integers(0, 30),
    spare=st.integers(-60, 40),
    instruction=st.sampled_from([None, "Why?", "Say all of it, in as many words as you like."]),
)
def test_only_the_document_is_cut_whatever_the_limit(rule, length, spare, instruction):
    renderer = renderer_of(headers, rule)
    document = list(range(1_000_000, 1_000_000 + length))
    before, after = frame(renderer, instruction)
    limit = len(before) + len(after) + spare
    prompt = renderer.prompt(document, limit, instruction)
    if spare < 1 or (length > spare and rule in ("drop", "error")):
        assert prompt is None
        return
    assert len(prompt.ids) <= limit
    assert prompt.ids[: len(before)] == before
    assert prompt.ids[len(prompt.ids) - len(after) :] == after
    kept = prompt.ids[len(before) : len(prompt.ids) - len(after)]
    assert (prompt.document_tokens, prompt.document_kept) == (length, len(kept))
    assert len(kept) == min(length, spare)
    first, last = cut = _cut(document, kept)
    if length <= spare:
        assert kept == document
    elif rule == "head":
        assert kept == document[:spare]
    elif rule == "middle":
        assert kept == document[first : length - last]
        assert abs(first - last) <= 1
    elif rule == "head_tail":
        half = spare // 2
        assert kept == document[: spare - half] + document[length - half :]
        assert cut == ((0, 0) if half else (0, length - 1))


def _cut(document, kept):
    """Number of tokens missing before the first and after the last that was kept."""
    if not kept:
        return len(document), len(document)
    return document.index(kept[0]), len(document) - 1 - document.index(kept[-1])


@pytest.mark.parametrize(
    ("rule", "kept"), [("head", "abcde"), ("head_tail", "abchi"), ("middle", "cdefg")]
)
def test_what_each_rule_keeps_of_nine_tokens_in_five(rule, kept):
    assert Truncation(rule).keep("abcdefghi", 5) == list(kept)


def test_a_row_s_own_instruction_comes_in_place_of_the_common_one():
    renderer = renderer_of(chatml)
    text = renderer.tokenizer.decode(renderer.prompt([], 1000, "Who sat?").ids)
    assert "Who sat?" in text
    assert renderer.instruction not in text
    assert renderer.instruction in renderer.tokenizer.decode(renderer.prompt([], 1000).ids)


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
        (
            "{% for turn in messages %}{{ turn.content }}{% endfor %}"
            "{% if add_generation_prompt %}Answer:{% endif %}",
            "a conversation does not begin with the prompt that asks for it",
        ),
        (
            "{% for turn in messages | reverse %}{{ turn.content }}{% endfor %}",
            "a conversation does not begin with the prompt that asks for it",
        ),
    ],
)
def test_a_template_that_cannot_be_trusted_is_refused(template, said):
    tokenizer = chatml()
    tokenizer.chat_template = template
    with pytest.raises(DataError) as caught:
        PromptRenderer(tokenizer, "Go.")
    assert str(caught.value).startswith("chat template: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


NO_END = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
NO_END += "{% if add_generation_prompt %}assistant: {% endif %}"


def test_without_an_end_of_turn_in_the_template_eos_ends_it():
    renderer = PromptRenderer(fast(byte_level(["</s>"]), NO_END, eos_token="</s>"), "Go.")
    assert renderer.end_ids == [renderer.tokenizer.eos_token_id] == renderer.stop_ids


def test_without_an_end_of_turn_and_eos_a_model_would_never_stop():
    with pytest.raises(DataError, match="no end of turn follows"):
        PromptRenderer(fast(byte_level([]), NO_END), "Go.")


def test_a_tokenizer_is_loaded_from_a_model_folder(model_folder, tokenizer):
    loaded = load_tokenizer(str(model_folder))
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.get_vocab() == tokenizer.get_vocab()
    text = "The cat — 猫 <|im_end|>"
    assert PromptRenderer(loaded, "Go.").encode_text([text]) == (
        PromptRenderer(tokenizer, "Go.").encode_text([text])
    )


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="the model folder has no tokenizer"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "../nowhere", "a/b/c", "~/m"])
def test_a_path_that_leads_nowhere_is_called_a_folder_not_a_download(path):
    with pytest.raises(DataError) as caught:
        load_tokenizer(path)
    assert str(caught.value) == f"{path}: no such model folder"


def test_a_hub_name_that_cannot_be_had_is_one_line():
    with pytest.raises(DataError) as caught:
        load_tokenizer("nobody/no-such-model")
    assert str(caught.value).startswith("nobody/no-such-model: no tokenizer can be loaded: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"model": 3}'])
def test_a_damaged_tokenizer_is_told_with_its_folder(tmp_path, name, content):
    chatml().save_pretrained(tmp_path)
    (tmp_path / name).write_text(content)
    if name == "tokenizer_config.json" and content.startswith("{") and content.endswith("}"):
        (tmp_path / "tokenizer.json").unlink()  # alone, such settings say nothing
    with pytest.raises(DataError, match=r"no tokenizer can be loaded: .+") as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_a_tokenizer_without_a_chat_template_is_refused_with_what_to_do(tmp_path):
    fast(byte_level(["</s>"]), None, eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"no chat template; put a chat_template\.jinja"):
        load_tokenizer(str(tmp_path))


def test_a_template_that_writes_the_date_renders_the_same_every_day(tokenizer):
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = "{{ strftime_now('%d %b %Y %f') }}\n" + tokenizer.chat_template
    prompts = [PromptRenderer(dated, "Sum up.").prompt([5, 6], 100).ids for _ in range(2)]
    assert prompts[0] == prompts[1]
    assert "01 Jan 2025" in dated.decode(prompts[0])
