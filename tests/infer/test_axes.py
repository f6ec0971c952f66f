import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.axes import Scale, extent, fitted, label, log_ticks, ticks, width_of

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


@given(NUMBERS, st.floats(1e-6, 1e9))
def test_ticks_are_round_rising_and_within(low, width):
    high = low + width
    if not low < high or width < 1e-9 * abs(low):
        return
    found = ticks(low, high)
    assert found == sorted(set(found))
    assert len(found) <= 6
    assert len(found) >= 2
    slack = 1e-6 * width
    assert all(low - slack <= tick <= high + slack for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(
        math.isclose(step, steps[0], rel_tol=1e-3, abs_tol=1e-9 * abs(low)) for step in steps
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.13, 0.32, [0.15, 0.2, 0.25, 0.3]),
        (-2, 3, [-2, -1, 0, 1, 2, 3]),
        (0, 7213, [0, 2000, 4000, 6000]),
    ],
)
def test_ticks_are_those_one_would_write(low, high, expected):
    assert ticks(low, high) == expected


def test_ticks_of_no_width_are_refused():
    with pytest.raises(ValueError, match="no ticks from 3 to 3"):
        ticks(3, 3)


def test_ticks_of_logarithms_are_powers_of_ten_where_they_suffice():
    assert log_ticks(1, 20000) == [1, 10, 100, 1000, 10000]
    assert log_ticks(40, 900) == [50, 100, 200, 500]


@pytest.mark.parametrize(
    ("values", "padding", "expected"),
    [
        ([], 0.1, (0, 1)),
        ([math.nan, math.inf], 0.1, (0, 1)),
        ([5, 5, math.nan], 0.1, (4.5, 5.5)),
        ([0, 0], 0.1, (0, 1)),  # the floor holds
        ([100], 0.1, (90, 100)),
        ([20, 40], 0.1, (18, 42)),
        ([1, 99], 0.1, (0, 100)),
    ],
)
def test_the_extent_has_room_and_keeps_its_bounds(values, padding, expected):
    assert extent(values, padding=padding, floor=0, ceiling=100) == pytest.approx(expected)


def test_the_extent_has_values_beyond_its_bounds():
    assert extent([-3, 120], floor=0, ceiling=100) == (-3, 120)


def test_a_scale_maps_its_ends_and_what_is_beyond_them():
    scale = Scale(10, 1000, 0, 200, log=True)
    assert [scale(x) for x in (1, 10, 100, 1000, 5000)] == pytest.approx([0, 0, 100, 200, 200])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.5, "0.5"), (25.0, "25"), (1234, "1,234"), (12000, "12k"), (12500, "12.5k"),
        (3e6, "3M"), (2.5e9, "2.5G"), (3e-5, "3e-05"), (-40, "-40"), (1e6, "1M"), (0.001, "0.001"),
    ],
)  # fmt: skip
def test_labels_are_short(value, text):
    assert label(value) == text


@given(st.text("aé漢🙂 ", max_size=80), st.floats(40, 200))
def test_a_fitted_text_is_no_wider_than_its_place(text, width):
    found = fitted(text, width)
    assert width_of(found) <= max(width, 0)
    assert found == text or "…" in found


def test_a_fitted_text_keeps_its_beginning_and_its_end():
    assert fitted("scitldr-qwen3-0.6b-lora-rank-16", 96) == "scitldr-…rank-16"
