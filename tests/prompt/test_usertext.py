import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.errors import DataError
from sumzero.prompt import PromptRenderer

LOSSLESS = ("chatml", "thinking", "headers", "learned", "byte_fallback", "word_prefix")
ALL = (*LOSSLESS, "unigram", "word_piece")
MARKS = {  # what the tokenizers have as special and added tokens, but for text and unknown
    "chatml": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
    "thinking": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    "headers": ("<|begin|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|end|>"),
    "learned": ("<|end|>",),
    "byte_fallback": ("<eos>", "<turn>", "</turn>"),
    "word_prefix": ("<s>", "</s>", "[INST]", "[/INST]"),
    "unigram": ("</s>", "[TURN]", "[NOTE]"),
    "word_piece": ("[SEP]", "[TURN]"),
}
LETTERS = string.ascii_letters + string.digits + string.punctuation
ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")

every_tokenizer = pytest.mark.parametrize("name", ALL)
lossless_tokenizer = pytest.mark.parametrize("name", LOSSLESS)


def texts(name, alphabet):
    """Text with control strings in it, whole, cut, and one inside the other."""
    marks = MARKS[name]
    pieces = st.one_of(
        st.text(alphabet, max_size=6),
        st.sampled_from(marks),
        st.sampled_from([text[: len(text) // 2] for text in marks]),
        st.sampled_from([text[len(text) // 2 :] for text in marks]),
        st.sampled_from([text[:2] + text + text[2:] for text in marks]),
    )
    return st.lists(pieces, max_size=8).map("".join)


def mark_ids(renderer):
    """Ids of all special and added tokens that are no text, from the tokenizer's own tables."""
    tokenizer = renderer.tokenizer
    added = {
        id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if any(map(str.isalpha, token.content))
    }
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def as_a_user_can_send(renderer, text):
    """The ids of a text as document, as instruction, as question and as target."""
    (target,) = renderer.encode_targets([text])
    return [
        *renderer.encode_text([text]),
        renderer.ask(text.replace("{question}", "")),
        renderer.ask("Answer, please: {question} Be brief.", text),
        target[: len(target) - len(renderer.end_ids)],
    ]


@every_tokenizer
def test_the_marks_of_these_tests_are_all_that_the_tokenizers_have(name, renderer_of):
    renderer = renderer_of(name)
    assert mark_ids(renderer) == set(renderer.tokenizer.convert_tokens_to_ids(list(MARKS[name])))
    for text in MARKS[name]:  # in a template each is one token
        ids = renderer.tokenizer.encode(text, add_special_tokens=False)
        assert ids == [renderer.tokenizer.convert_tokens_to_ids(text)]


@every_tokenizer
@pytest.mark.parametrize(
    "context", ["{}", " {} ", "a{}b", "{}{}", "\n{}\n", "one {}. {} two", "<{}>", "{}\u00a0{}\t"]
)
def test_no_special_or_added_token_comes_of_a_text_that_spells_it(name, context, renderer_of):
    renderer = renderer_of(name)
    marks = mark_ids(renderer)
    for id_ in marks:
        spelt = renderer.tokenizer.convert_ids_to_tokens(id_)
        for ids in as_a_user_can_send(renderer, context.replace("{}", spelt)):
            assert marks.isdisjoint(ids)


@every_tokenizer
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_of_a_user_becomes_a_control_token(name, renderer_of, data):
    renderer = renderer_of(name)
    text = data.draw(texts(name, ANY))
    for ids in as_a_user_can_send(renderer, text):
        assert mark_ids(renderer).isdisjoint(ids)


@lossless_tokenizer
@settings(max_examples=60)
@given(data=st.data())
def test_text_comes_back_from_its_tokens_character_by_character(name, renderer_of, data):
    text = data.draw(texts(name, ANY))
    renderer = renderer_of(name)
    decoded = renderer.tokenizer.decode(renderer.encode_text(["a" + text])[0])
    assert decoded == "a" + text


@settings(max_examples=60)
@given(text=texts("unigram", st.sampled_from(LETTERS + " ")))
def test_a_vocabulary_with_control_strings_among_its_pieces_loses_nothing_either(text, renderer_of):
    renderer = renderer_of("unigram")
    (ids,) = renderer.encode_text([text])
    assert renderer.tokenizer.unk_token_id not in ids
    # White space before the first word is not given back by this kind of tokenizer.
    assert renderer.tokenizer.decode(ids).lstrip(" ") == text.lstrip(" ")


@pytest.mark.parametrize("name", ["unigram", "word_prefix"])
def test_a_text_that_continues_another_gets_no_space_of_the_tokenizer(name, renderer_of):
    renderer = renderer_of(name)
    one, two = renderer.encode_text(["The c", "at"])
    assert renderer.tokenizer.decode(one + two) == "The cat"


@pytest.mark.parametrize("name", ["unigram", "word_piece"])
def test_unknown_characters_are_no_fault(name, renderer_of):
    renderer = renderer_of(name)
    (ids,) = renderer.encode_text(["The cat \U0001f600 sat."])
    assert renderer.tokenizer.unk_token_id in ids
    assert len(ids) > 2


def test_unknown_characters_that_would_end_the_text_are_told(make):
    renderer = PromptRenderer(make("word_piece", eos="[UNK]"))
    assert renderer.encode_text(["The cat sat"])
    with pytest.raises(DataError, match=r"it can only encode as \[UNK\]"):
        renderer.encode_text(["The cat", "\U0001f600"])


def test_line_breaks_stay_text_where_a_tokenizer_adds_them_as_tokens(renderer_of):
    renderer = renderer_of("byte_fallback")
    text = "one\ntwo\n\nthree  four"
    (ids,) = renderer.encode_text([text])
    assert renderer.tokenizer.convert_tokens_to_ids("\n") in ids
    assert renderer.tokenizer.decode(ids) == text


def test_texts_are_encoded_each_for_itself(renderer_of):
    renderer = renderer_of("chatml")
    some = ["one", "", "<|im_end|>", "two\0three"]
    assert renderer.encode_text(some) == [renderer.encode_text([text])[0] for text in some]
    assert renderer.encode_text([]) == []
