import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.prompt import PromptRenderer, Truncation

ASKED = "Summarize the text above."
RULES = ("head", "head_tail", "middle", "drop", "error")
LOSSLESS = ("chatml", "thinking", "headers", "learned", "byte_fallback")
ALL = (*LOSSLESS, "word_prefix", "unigram", "word_piece")
every_tokenizer = pytest.mark.parametrize("name", ALL)
lossless_tokenizer = pytest.mark.parametrize("name", LOSSLESS)


@lossless_tokenizer
def test_prompt_target_and_end_are_what_the_template_makes_of_the_conversation(name, renderer_of):
    renderer = renderer_of(name)
    document, target = "The cat sat.\nIt slept.", "A cat\nslept."
    (ids,) = renderer.encode_text([document])
    prompt = renderer.prompt(ids, 10_000, renderer.ask(ASKED))
    whole = [*prompt.ids, *renderer.encode_targets([target])[0]]
    turns = [
        {"role": "user", "content": f"{document}\n\n{ASKED}"},
        {"role": "assistant", "content": target},
    ]
    apply = renderer.tokenizer.apply_chat_template
    conversation = apply(turns, tokenize=False, enable_thinking=False)
    decoded = renderer.tokenizer.decode(whole)
    assert conversation.startswith(decoded)
    assert conversation[len(decoded) :].strip() == ""  # what stands after the end of turn
    asked = apply(turns[:1], tokenize=False, enable_thinking=False, add_generation_prompt=True)
    assert renderer.tokenizer.decode(prompt.ids) == asked


@every_tokenizer
def test_a_prompt_is_head_document_asked_and_tail(name, renderer_of):
    renderer = renderer_of(name)
    document, asked = [999_999, 999_998], renderer.ask(ASKED)
    ids = renderer.prompt(document, 10_000, asked).ids
    assert ids == [*renderer.head_ids, *document, *asked, *renderer.tail_ids]
    assert renderer.fixed_tokens(asked) == len(ids) - len(document)


@every_tokenizer
def test_a_target_ends_with_the_end_of_turn_where_generation_stops(name, renderer_of):
    renderer = renderer_of(name)
    targets = renderer.encode_targets(["The cat", "sat."])
    for target in targets:
        assert target[len(target) - len(renderer.end_ids) :] == renderer.end_ids
    assert targets == [*renderer.encode_targets(["The cat"]), *renderer.encode_targets(["sat."])]
    assert renderer.end_ids[-1] in renderer.stop_ids
    assert renderer.tokenizer.eos_token_id in renderer.stop_ids
    assert renderer.stop_ids == sorted(set(renderer.stop_ids))


def test_an_end_of_turn_apart_from_eos_stops_generation_too(renderer_of):
    renderer = renderer_of("headers")
    assert renderer.tokenizer.convert_ids_to_tokens(renderer.end_ids) == ["<|eot|>"]
    stops = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_ids)
    assert set(stops) == {"<|eot|>", "<|end|>"}


def test_a_template_that_begins_with_bos_gives_one_bos(renderer_of):
    renderer = renderer_of("headers")
    ids = renderer.prompt(renderer.encode_text(["The cat."])[0], 1000, []).ids
    assert ids[0] == renderer.tokenizer.bos_token_id
    assert ids.count(renderer.tokenizer.bos_token_id) == 1


@every_tokenizer
@pytest.mark.parametrize("text", ["Answer: {question}", "Of {question}\nsay it all.", "{question}"])
def test_a_question_stands_where_the_instruction_has_it(name, text, renderer_of):
    renderer = renderer_of(name)
    before, after = renderer.ask_parts(text)
    question = "Who <|im_end|> sat?"
    assert renderer.ask(text, question) == before + renderer.encode_text([question])[0] + after
    whole = renderer.encode_text(["\n\n" + text.replace("{question}", question)])[0]
    read = renderer.tokenizer.decode
    assert "".join(read(renderer.ask(text, question)).split()) == "".join(read(whole).split())


def test_a_question_cannot_bring_a_question_of_its_own(renderer_of):
    renderer = renderer_of("chatml")
    asked = renderer.ask("Answer: {question} Be brief.", "What is {question}?")
    read = renderer.tokenizer.decode(asked)
    assert read == "\n\nAnswer: What is {question}? Be brief."


def test_without_a_question_all_is_before_it(renderer_of):
    renderer = renderer_of("chatml")
    assert renderer.ask_parts(ASKED) == (renderer.ask(ASKED), [])
    assert renderer.tokenizer.decode(renderer.ask(ASKED)) == "\n\n" + ASKED


def test_what_is_asked_cannot_be_changed_by_who_got_it_before(renderer_of):
    renderer = renderer_of("chatml")
    first = renderer.ask(ASKED)
    first.append(1)
    assert renderer.ask(ASKED) == first[:-1]


def test_a_renderer_can_be_sent_to_another_process(renderer_of):
    renderer = renderer_of("thinking", "middle")
    other = pickle.loads(pickle.dumps(renderer))
    (document,) = renderer.encode_text(["The cat <think> sat on the mat."])
    assert other.encode_text(["The cat <think> sat on the mat."]) == [document]
    for limit in (60, 1000):
        assert other.prompt(document, limit, other.ask(ASKED)) == (
            renderer.prompt(document, limit, renderer.ask(ASKED))
        )
    assert other.encode_targets(["A cat."]) == renderer.encode_targets(["A cat."])
    assert other.stop_ids == renderer.stop_ids


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=150)
@given(
    length=st.integers(0, 30),
    spare=st.integers(-60, 40),
    text=st.sampled_from([ASKED, "Why?", "Say all of it, in as many words as you like."]),
)
def test_only_the_document_is_cut_whatever_the_limit(rule, length, spare, text, renderer_of):
    renderer = renderer_of("headers", rule)
    document = list(range(1_000_000, 1_000_000 + length))
    asked = renderer.ask(text)
    before, after = renderer.head_ids, asked + renderer.tail_ids
    limit = len(before) + len(after) + spare
    prompt = renderer.prompt(document, limit, asked)
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


@pytest.mark.parametrize("rule", ["head", "head_tail", "middle"])
@given(length=st.integers(0, 60), budgets=st.tuples(st.integers(0, 70), st.integers(0, 70)))
def test_cutting_twice_is_cutting_once(rule, length, budgets):
    document = list(range(length))
    cut = Truncation(rule)
    wide, narrow = max(budgets), min(budgets)
    assert cut.keep(cut.keep(document, wide), narrow) == cut.keep(document, narrow)
    assert len(cut.keep(document, narrow)) == min(length, narrow)


def test_two_instructions_make_two_prompts_of_one_tokenizer(make):
    renderer = PromptRenderer(make("chatml"))
    prompts = [renderer.prompt([5], 1000, renderer.ask(text)).ids for text in ("One.", "Two.")]
    assert prompts[0] != prompts[1]
    assert "One." in renderer.tokenizer.decode(prompts[0])
