"""Beam search on scripted log-probabilities; tests/infer/test_engine.py runs it on the engine."""

import math
from itertools import product

import pytest
import torch

from sumzero.config import Generate
from sumzero.infer.beam_search import Beam, BeamSearch, search, wanted

STOP = 9


def found(settings, table, stops=(STOP,)):
    """The best summary where `table` tells the next tokens' probabilities by what came before."""
    one = BeamSearch(settings, stops)
    steps = 0
    while not one.done:
        rows = [table[beam.token_ids] for beam in one.live]
        one.step([{token: math.log(p) for token, p in row.items()} for row in rows])
        steps += 1
    return one.best().token_ids, steps


GARDEN = {  # greedily 1 then 3, at 0.6 x 0.4; better is 2 then 4, at 0.4 x 0.9
    (): {1: 0.6, 2: 0.4},
    (1,): {3: 0.4, 4: 0.3, 5: 0.3},
    (2,): {4: 0.9, 3: 0.1},
}


def test_what_begins_less_likely_may_end_likelier():
    assert found(Generate(beams=2, max_new_tokens=2), GARDEN)[0] == (2, 4)


SHORT_OR_LONG = {  # stop at once: log 0.3; or three sure tokens after one of log 0.2
    (): {STOP: 0.3, 1: 0.2, 2: 0.1, 3: 0.05},
    (1,): {4: 1.0},
    (1, 4): {5: 1.0},
    (1, 4, 5): {STOP: 1.0},
    (2,): {4: 1.0},
    (2, 4): {5: 1.0},
    (2, 4, 5): {STOP: 1.0},
}


LONG = (1, 4, 5, STOP)


@pytest.mark.parametrize(
    ("penalty", "tokens"),
    [(-1.0, (STOP,)), (0.0, (STOP,)), (0.2, (STOP,)), (0.25, LONG), (1.0, LONG)],
)
def test_the_penalty_divides_by_the_length_with_the_stop_token(penalty, tokens):
    """log 0.2 / 4**p is above log 0.3 / 1**p from p = 0.21 on; 3 in place of 4 would be 0.26."""
    settings = Generate(beams=2, max_new_tokens=8, length_penalty=penalty)
    assert found(settings, SHORT_OR_LONG)[0] == tokens


def test_early_stopping_takes_the_first_that_are_done():
    table = {
        (): {STOP: 0.4, 1: 0.35, 2: 0.25},
        (1,): {STOP: 0.6, 3: 0.4},
        (2,): {3: 1.0},
        (2, 3): {4: 1.0},
        (1, 3): {4: 1.0},
        (2, 3, 4): {STOP: 1.0},
        (1, 3, 4): {STOP: 1.0},
    }
    early = Generate(beams=2, max_new_tokens=8, length_penalty=2.0, early_stopping=True)
    late = Generate(beams=2, max_new_tokens=8, length_penalty=2.0)
    assert found(early, table) == ((1, STOP), 2)
    assert found(late, table) == ((2, 3, 4, STOP), 4)


def test_a_search_ends_where_no_living_beam_is_as_good_as_the_worst_that_is_done():
    table = {
        (): {STOP: 0.5, 1: 0.45, 2: 0.05},
        (1,): {STOP: 0.9, 3: 0.1},
        (2,): {3: 0.5, 4: 0.5},
    }
    assert found(Generate(beams=2, max_new_tokens=8, length_penalty=0.0), table) == ((STOP,), 2)


def test_no_stop_token_comes_before_the_least_length():
    settings = Generate(beams=2, max_new_tokens=8, min_new_tokens=3)
    assert found(settings, SHORT_OR_LONG)[0] == (1, 4, 5, STOP)


def test_a_stop_token_that_is_not_among_the_first_beams_is_not_done():
    table = {(): {1: 0.4, 2: 0.35, STOP: 0.25}, (1,): {3: 1.0}, (2,): {3: 1.0}}
    one = BeamSearch(Generate(beams=2, max_new_tokens=2), [STOP])
    one.step([{token: math.log(p) for token, p in table[()].items()}])
    assert [beam.token_ids for beam in one.live] == [(1,), (2,)]
    one.step([{3: 0.0}, {3: 0.0}])
    assert one.done
    assert one.best() == Beam((1, 3), math.log(0.4))


def test_enough_is_asked_for_that_beams_go_on_though_all_may_end():
    assert wanted(5, []) == 10
    assert wanted(5, [1]) == 10
    assert wanted(5, [1, 2]) == 15
    stops = [7, 8]
    one = BeamSearch(Generate(beams=2, max_new_tokens=9), stops)
    one.step([{7: -0.1, 8: -0.2, 1: -3.0, 2: -4.0, 3: -5.0, 4: -6.0}])
    one.done = False
    assert [beam.token_ids for beam in one.live] == [(1,), (2,)]


def test_a_width_that_holds_everything_finds_the_best_of_all_summaries():
    vocabulary, length = 3, 4
    greedy_was_best = 0
    for seed in range(20):
        draws = torch.Generator().manual_seed(seed)
        table = {}
        for size in range(length):
            for before in product(range(vocabulary), repeat=size):
                row = torch.randn(vocabulary, generator=draws, dtype=torch.float64)
                table[before] = dict(enumerate(row.softmax(0).tolist()))
        chances = {}
        for tokens in product(range(vocabulary), repeat=length):
            steps = [table[tokens[:at]][token] for at, token in enumerate(tokens)]
            chances[tokens] = math.prod(steps)
        best = max(chances, key=chances.get)
        assert found(Generate(beams=27, max_new_tokens=length), table, stops=())[0] == best
        greedy = ()
        while len(greedy) < length:
            greedy += (max(table[greedy], key=table[greedy].get),)
        greedy_was_best += greedy == best
    assert 0 < greedy_was_best < 20


def test_many_prompts_are_searched_at_once_and_none_waits_for_another():
    settings = Generate(beams=2, max_new_tokens=8, length_penalty=1.0)
    asked, at_once, read = [], [], []

    def prompts():
        for number in range(5):
            read.append(number)
            yield str(number), [100 + number]

    def ask(name, prompt, ids):
        assert ids[0] == 100 + int(prompt)
        asked.append((name, ids))

    def answers():
        at_once.append({ids[0] for _, ids in asked})
        name, ids = asked.pop()  # the newest first: the oldest prompt waits longest
        row = GARDEN if ids[0] == 100 else SHORT_OR_LONG
        after = row.get(tuple(ids[1:]), {STOP: 1.0})
        yield name, {token: math.log(p) for token, p in after.items()}

    made = []
    for id_, tokens, seconds in search(prompts(), settings, [STOP], 3, ask, answers):
        made.append(id_)
        assert seconds > 0
        assert len(read) <= len(made) + 2 + 1  # no more is read than there is room for
        table = GARDEN if id_ == "0" else SHORT_OR_LONG
        whole = {**{(a, b): {STOP: 1.0} for a, b in product(range(6), repeat=2)}, **table}
        assert tokens == found(settings, {**whole, (3,): {STOP: 1.0}})[0]
    assert sorted(made) == ["0", "1", "2", "3", "4"]
    assert made[-1] == "0"
    assert max(map(len, at_once)) == 3
