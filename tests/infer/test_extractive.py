import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.extractive import METRICS, Fragment, extractive, fragments

TOKENS = st.lists(st.sampled_from("abc"), max_size=25)


def _newsroom(document, summary):
    """The greedy procedure of Grusky et al. 2018, figure 3: the longest match at each place."""
    found, i = [], 0
    while i < len(summary):
        best, where = 0, 0
        for j in range(len(document)):
            k = 0
            while i + k < len(summary) and j + k < len(document):
                if summary[i + k] != document[j + k]:
                    break
                k += 1
            if k > best:
                best, where = k, j
        if best:
            found.append(Fragment(i, where, best))
        i += max(best, 1)
    return found


@given(TOKENS, st.lists(st.sampled_from("abcd"), max_size=25))
def test_fragments_are_newsrooms(document, summary):
    assert fragments(document, summary) == _newsroom(document, summary)


@given(TOKENS, st.lists(st.sampled_from("abcd"), min_size=1, max_size=25))
def test_statistics_are_those_of_their_definitions(document, summary):
    values = dict(zip(METRICS, extractive(document, summary), strict=True))
    lengths = [fragment.length for fragment in _newsroom(document, summary)]
    assert values["coverage"] == sum(lengths) / len(summary)
    assert values["density"] == sum(x**2 for x in lengths) / len(summary)
    assert values["compression"] == len(document) / len(summary)
    for n in (1, 2, 3):
        grams = {tuple(summary[i : i + n]) for i in range(len(summary) - n + 1)}
        have = {tuple(document[i : i + n]) for i in range(len(document) - n + 1)}
        new = values[f"novel_{n}grams"]
        assert math.isnan(new) if not grams else new == len(grams - have) / len(grams)


def test_a_copy_is_all_extraction_and_a_loop_all_repetition():
    words = [f"w{i}" for i in range(70_000)]  # more than 16 bits of distinct words
    assert fragments(words, words) == [Fragment(0, 0, 70_000)]
    words = words[:500]
    copied = dict(zip(METRICS, extractive(words, words), strict=True))
    assert copied == {
        "coverage": 1,
        "density": 500,
        "compression": 1,
        "novel_1grams": 0,
        "novel_2grams": 0,
        "novel_3grams": 0,
        "repeated_3grams": 0,
    }
    looped = dict(zip(METRICS, extractive(["x"], ["a", "b"] * 51), strict=True))
    assert looped["coverage"] == 0
    assert looped["novel_1grams"] == 1
    assert looped["repeated_3grams"] == pytest.approx(0.98)


def test_an_empty_summary_has_no_statistics():
    assert np.isnan(extractive(["a"], [])).all()
