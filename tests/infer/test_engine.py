"""The engine's ways to choose tokens, against transformers' on the same float32 weights."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from sumzero.config import Generate
from sumzero.infer.engine import Engine, Request

from .sure_model import write_model

pytestmark = pytest.mark.filterwarnings("ignore")  # those of vLLM and what it imports
PROMPT_LENGTHS = (7, 12, 20, 33, 9, 140)
NEW = 12


def random_prompts(vocabulary):
    draws = torch.Generator().manual_seed(1)
    return [torch.randint(vocabulary, (n,), generator=draws).tolist() for n in PROMPT_LENGTHS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def model(folder, tokenizer):
    return write_model(folder, tokenizer)


@pytest.fixture(scope="module")
def prompts(model):
    return random_prompts(model.config.vocab_size)


@pytest.fixture(scope="module")
def engine(folder, model):
    settings = Generate(beams=5, dtype="float32", max_in_flight=12, cpu_kv_cache_gib=0.1)
    return Engine(folder, settings, 256, 0)


@pytest.fixture(scope="module")
def made(engine, prompts):
    """What the engine makes of the prompts, in their order, under other settings."""

    def make(stop_ids, **values):
        settings = Generate(max_new_tokens=NEW, **values)
        requests = [Request(str(number), ids) for number, ids in enumerate(prompts)]
        found = list(engine.generate(requests, stop_ids, 0, settings=settings))
        assert len(found) == len(prompts)
        return sorted(found, key=lambda one: int(one.id))

    return make


@pytest.fixture(scope="module")
def wanted(model, prompts):
    """What transformers makes of the prompts."""

    def want(stop_ids, **values):
        settings = GenerationConfig(
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=stop_ids or None,
            pad_token_id=0,
            **values,
        )
        every = []
        for ids in prompts:
            given = torch.tensor([ids])
            text = model.generate(given, settings, attention_mask=torch.ones_like(given))
            every.append(tuple(text[0, len(ids) :].tolist()))
        return every

    return want


@pytest.fixture(scope="module")
def stops(wanted):
    """Two tokens that several greedy texts hold, early and late."""
    return list(wanted([])[1][2:4])


BEAM_SEARCHES = [
    {},
    {"length_penalty": 2.0, "early_stopping": True},
    {"length_penalty": 0.0},
    {"length_penalty": 1.0, "min_new_tokens": 6},
    {"length_penalty": 0.5, "early_stopping": True, "min_new_tokens": 3},
]


@pytest.mark.parametrize("values", BEAM_SEARCHES, ids=str)
def test_a_beam_search_gives_the_tokens_of_transformers_own(made, wanted, stops, values):
    found = made(stops, beams=5, **values)
    assert [one.token_ids for one in found] == wanted(stops, num_beams=5, **values)
    for one in found:
        assert one.finish_reason == ("stop" if one.token_ids[-1] in stops else "length")
        assert one.output_tokens == len(one.token_ids)


def test_beam_searches_differ_from_greedy_and_by_their_settings(made, stops):
    """Else the comparison above would show nothing."""
    found = [tuple(one.token_ids for one in made(stops, beams=5, **x)) for x in BEAM_SEARCHES]
    found.append(tuple(one.token_ids for one in made(stops)))
    assert len(set(found)) == len(found)
    reasons = {one.finish_reason for one in made(stops, beams=5)}
    assert reasons == {"stop", "length"}


def test_the_text_of_a_beam_search_is_what_its_tokens_say_without_the_stop(made, stops, tokenizer):
    for one in made(stops, beams=5):
        ids = one.token_ids[: -1 if one.finish_reason == "stop" else None]
        assert one.text == tokenizer.decode(ids, skip_special_tokens=True)


def test_greedy_tokens_are_those_of_transformers(made, wanted, stops):
    assert [one.token_ids for one in made(stops)] == wanted(stops)


def test_no_stop_comes_before_the_least_length(made, wanted, stops):
    assert min(len(one.token_ids) for one in made(stops)) < 6
    found = [one.token_ids for one in made(stops, min_new_tokens=6)]
    assert found == wanted(stops, min_new_tokens=6)
    assert min(map(len, found)) >= 6


def test_the_repetition_penalty_counts_the_prompt_too_as_in_transformers(made, wanted):
    found = [one.token_ids for one in made([], repetition_penalty=1.5)]
    assert found == wanted([], repetition_penalty=1.5)
    assert found != [one.token_ids for one in made([])]


def test_sampling_among_the_likeliest_one_is_greedy(made):
    greedy, hot = made([]), made([], temperature=2.0)
    assert [one.token_ids for one in greedy] != [one.token_ids for one in hot]
    narrow = made([], temperature=2.0, top_k=1)
    assert [one.token_ids for one in narrow] == [one.token_ids for one in greedy]


def test_what_goes_round_in_circles_is_ended(made):
    """Every token is made to be the last one again, by a penalty that rewards it."""
    values = {"frequency_penalty": -2.0, "repetition_penalty": 0.05}
    free, ended = made([], **values), made([], **values, max_repeats=3, repeat_tokens=2)
    assert {one.finish_reason for one in free} == {"length"}
    assert "repetition" in {one.finish_reason for one in ended}
    for whole, one in zip(free, ended, strict=True):
        assert whole.token_ids[: len(one.token_ids)] == one.token_ids
        if one.finish_reason == "repetition":
            assert _circles(one.token_ids)
        assert not _circles(one.token_ids[:-1])


def _scored(prompts):
    """Requests for the last half of the tokens, and at least one."""
    return [Request(f"{i}", ids, scored=1 + len(ids) // 2) for i, ids in enumerate(prompts)]


def _logprobs(engine, requests):
    settings = Generate(max_new_tokens=NEW)
    found = {done.id: done for done in engine.generate(requests, [], 0, settings=settings)}
    assert len(found) == len(requests)
    return [np.array(found[one.id].logprobs) for one in requests]


def _by_transformers(model, one, dtype):
    with torch.no_grad():
        logits = model.to(dtype)(torch.tensor([one.prompt_ids])).logits[0, -one.scored - 1 : -1]
    wanted = torch.tensor(one.prompt_ids[-one.scored :])[:, None]
    return logits.log_softmax(-1).gather(1, wanted)[:, 0].double().numpy()


def test_given_tokens_are_scored_as_transformers_scores_them(engine, model, prompts):
    """Both are float32: each may be as far from float64 as its own order of sums makes it."""
    requests = _scored(prompts)
    errors = []
    for found, one in zip(_logprobs(engine, requests), requests, strict=True):
        assert len(found) == one.scored
        exact = _by_transformers(model, one, torch.float64)
        theirs = _by_transformers(model, one, torch.float32)
        assert np.ptp(exact) > 1 or one.scored < 5
        errors.append([np.abs(x - exact).max() for x in (found, theirs)])
    ours, theirs = np.max(errors, axis=0)
    assert 0 < ours <= 4 * theirs < 1e-4


def test_a_score_does_not_depend_on_what_is_scored_or_generated_beside_it(engine, made, prompts):
    """But for rounding: matrices of other sizes may be multiplied in another order."""
    requests = _scored(prompts)
    together = _logprobs(engine, requests)
    others = [Request(f"new {i}", ids) for i, ids in enumerate(prompts)]
    mixed = _logprobs(engine, [x for pair in zip(others, requests, strict=True) for x in pair])
    for number, one in enumerate(requests):
        alone = _logprobs(engine, [one])[0]
        for found in (together[number], mixed[2 * number + 1]):
            np.testing.assert_allclose(found, alone, rtol=0, atol=2e-5)
        assert not len(mixed[2 * number])
    assert [one.token_ids for one in made([])] == [one.token_ids for one in made([])]


def _circles(ids):
    """Whether the last one or two tokens have come three times in a row."""
    for size in (1, 2):
        parts = [ids[len(ids) - size * back :][:size] for back in (3, 2, 1)]
        if len(ids) >= 3 * size and all(a == b for a, b in pairwise(parts)):
            return True
    return False
