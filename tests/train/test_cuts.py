"""Only documents are cut, and no target is lost: over lengths, limits and rules."""

import logging
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumzero.errors import DataError
from sumzero.log import logger
from sumzero.prompt import Truncation

PARAPHRASES = ("Sum up.", "Say what it says.", "So:")
RULES = st.sampled_from(["head", "head_tail", "middle", "drop"])
WORDS = ("cat", " sat", " 这是", " naïve", "!", " names[index]", "\n", " <|end|>")
texts = st.tuples(st.integers(0, 7), st.integers(1, 70)).map(
    lambda drawn: "x" + "".join(WORDS[(drawn[0] + i * i) % len(WORDS)] for i in range(drawn[1]))
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "document": st.sampled_from(["The cat sat on the mat. " * 9, "Rain."]) | texts,
            "target": st.lists(texts, min_size=1, max_size=3, unique=True),
            "ask": st.just("Sum up.") | texts,
        }
    ),
    min_size=1,
    max_size=6,
)
limits = st.integers(60, 160)
prompt_limits = st.none() | st.integers(40, 120)
FITS = {"id": "fits", "document": "Rain fell.", "target": "Rain.", "ask": "Go."}


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    file = tmp_path_factory.mktemp("instructions") / "short.toml"
    file.write_text(f'task = "summarize"\nlanguage = "en"\nparaphrases = {list(PARAPHRASES)}\n')
    return str(file)


def _prompts(run, row, has_own):
    """Of every number of document tokens, the prompts that a row may get."""
    renderer = run.renderer
    (document,) = renderer.encode_text([row["document"].strip()])
    asked = (
        [renderer.ask("{question}", row["ask"].strip())]
        if has_own
        else map(renderer.ask, PARAPHRASES)
    )
    rule = Truncation(run.config.data.truncation)
    return {
        (*renderer.head_ids, *rule.keep(document, budget), *ids, *renderer.tail_ids)
        for ids in asked
        for budget in range(1, len(document) + 1)
    }


@settings(max_examples=60)
@given(rows, st.booleans(), RULES, limits, prompt_limits, st.booleans())
def test_what_is_fed_is_document_tokens_and_all_of_the_rest(
    prepared, instructions, rows, has_own, rule, limit, prompt_limit, share
):
    logger.setLevel(logging.ERROR)  # pytest would hold every warning
    rows = [{"id": f"r{i}", **row} for i, row in enumerate(rows)]
    source = {"instruction": "ask"} if has_own else {"instructions": instructions}
    run = prepared(
        [*rows, FITS],
        source=source,
        truncation=rule,
        max_length=limit,
        share_documents=share,
        duplicates="keep",
        **({} if prompt_limit is None else {"max_prompt": min(prompt_limit, limit)}),
    )
    refused = {reject["id"] for reject in run.rejects}
    assert run.counts["read"] == len(rows) + 1 == run.counts["kept"] + len(refused)
    kept = {row["id"]: row for row in [*rows, FITS] if row["id"] not in refused}
    want = Counter(
        (row["id"], tuple(ids))
        for row in kept.values()
        for ids in run.renderer.encode_targets([text.strip() for text in _targets(row)])
    )
    allowed = {name: _prompts(run, row, has_own) for name, row in kept.items()}
    for epoch in range(2):
        branches = [branch for piece in run.pieces(epoch) for branch in piece]
        assert Counter((name, tuple(target)) for name, _, target in branches) == want
        for name, prompt, target in branches:
            assert tuple(prompt) in allowed[name]
            assert len(prompt) + len(target) <= limit
            assert len(prompt) <= (prompt_limit or limit)


def _targets(row):
    return [row["target"]] if isinstance(row["target"], str) else row["target"]


@settings(max_examples=100)
@given(texts, texts, texts, RULES, limits, prompt_limits)
def test_as_much_is_kept_as_at_inference(
    prepared, document, target, ask, rule, limit, prompt_limit
):
    logger.setLevel(logging.ERROR)
    row = {"document": document, "target": target, "ask": ask}
    values = {} if prompt_limit is None else {"max_prompt": min(prompt_limit, limit)}
    try:
        run = prepared(
            [row], source={"instruction": "ask"}, truncation=rule, max_length=limit, **values
        )
    except DataError:  # the only row was rejected
        run = None
    renderer = prepared.renderer(rule)
    (document_ids,) = renderer.encode_text([document.strip()])
    (target_ids,) = renderer.encode_targets([target.strip()])
    room = min(prompt_limit or limit, limit - len(target_ids))
    want = renderer.prompt(document_ids, room, renderer.ask("{question}", ask.strip()))
    assert (want is None) == (run is None)
    if want and run:
        ((branch,),) = run.pieces()
        assert branch[1:] == (want.ids, target_ids)
        cut = want.document_tokens - want.document_kept
        assert run.counts["document_tokens_cut"] == cut
        assert run.counts["documents_cut"] == (cut > 0)
