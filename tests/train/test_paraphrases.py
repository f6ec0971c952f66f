"""Which paraphrase is drawn: `paraphrases.sample`."""

import numpy as np
import pytest

from sumzero.train.paraphrases import key_of, sample

KEYS = np.array([key_of(f"id-{number}") for number in range(7000)], np.uint64)


def test_the_same_is_drawn_for_the_same_seed_id_and_epoch():
    drawn = sample(7, 3, KEYS, 2)
    assert drawn.dtype == np.int64
    assert (sample(7, 3, KEYS, 2) == drawn).all()
    assert (sample(7, 3, KEYS[::-1], 2)[::-1] == drawn).all()
    assert sample(7, 3, KEYS[:1], 2)[0] == drawn[0]
    assert key_of("id-0") == KEYS[0]
    # Fixed for ever: a rerun with a later version asks the same.
    assert sample(7, 3, KEYS[:8], 2).tolist() == [6, 0, 0, 4, 5, 1, 0, 2]


@pytest.mark.parametrize(("seed", "epoch"), [(4, 2), (3, 3), (2**63 - 1, 0)])
def test_another_seed_or_epoch_draws_independently(seed, epoch):
    # As often equal as two independent draws: 1 in 7, within four standard deviations.
    equal = (sample(7, seed, KEYS, epoch) == sample(7, 3, KEYS, 2)).sum()
    assert abs(equal - 1000) < 4 * np.sqrt(7000 * 1 / 7 * 6 / 7)


@pytest.mark.parametrize("num_ways", [2, 7, 21, 100])
def test_all_ways_are_drawn_about_as_often(num_ways):
    for epoch in range(5):
        counts = np.bincount(sample(num_ways, 0, KEYS, epoch), minlength=num_ways)
        expected = len(KEYS) / num_ways
        chi_square = ((counts - expected) ** 2 / expected).sum()
        free = num_ways - 1
        assert len(counts) == num_ways
        assert chi_square < free + 4 * np.sqrt(2 * free) + 4


def test_each_target_has_its_own_number_of_ways():
    num_ways = np.arange(len(KEYS)) % 9 + 1
    drawn = sample(num_ways, 0, KEYS, 0)
    assert ((drawn >= 0) & (drawn < num_ways)).all()
    assert (drawn[num_ways == 1] == 0).all()
    assert set(drawn[num_ways == 9]) == set(range(9))


def test_counting_keys_are_mixed_as_well_as_hashes():
    counts = np.bincount(sample(4, 0, np.arange(4000, dtype=np.uint64), 1), minlength=4)
    assert (abs(counts - 1000) < 120).all()
