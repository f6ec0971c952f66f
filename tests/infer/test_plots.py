import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from sumzero.infer.plots import Interval, Series, curves, distributions, intervals, scatter

HOSTILE = "</svg><script>alert(1)</script>\"'&"
TOP = '<svg role="img"'


def parsed(svg):
    """The elements, which there are only where all is escaped and closed; no number is NaN."""
    assert not re.search(r"nan|inf\b", re.sub(r">[^<]*<", "><", svg))
    root = ElementTree.fromstring(svg)
    assert {element.tag for element in root.iter()} <= {
        *("svg", "path", "polyline", "circle", "text", "title", "g")
    }
    return root


def texts(root):
    return [element.text for element in root.iter("text")]


def drawn_points(root, kind="line"):
    lines = [x for x in root.iter("polyline") if kind in x.get("class").split()]
    return [[tuple(map(float, p.split(","))) for p in x.get("points").split()] for x in lines]


def test_a_curve_rises_to_the_left_as_its_values_fall():
    svg = curves([Series("", [(1, 4.0), (2, 2.0), (3, 1.0)])], x="step", y="loss", title="loss")
    root = parsed(svg)
    ((a, b, c),) = drawn_points(root)
    assert a[0] < b[0] < c[0]
    assert a[1] < b[1] < c[1]  # SVG's y points down
    assert root.get("aria-label") == "loss"
    assert {"step", "loss", "1", "2", "3", "4"} <= set(texts(root))


def test_values_that_are_not_finite_are_left_out_of_a_curve():
    points = [(1, 4.0), (2, math.nan), (3, math.inf), (4, 1.0)]
    ((a, b),) = drawn_points(parsed(curves([Series("", points)], x="x", y="y", title="t")))
    assert a[0] < b[0]


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, math.nan), (2, 3.0)]])
def test_no_curve_goes_through_less_than_two_points(points):
    assert curves([Series("", points)], x="x", y="y", title="t") is None


def test_a_curve_of_equal_values_is_level_and_inside():
    ((a, b),) = drawn_points(parsed(curves([Series("", [(1, 0), (2, 0)])], x="", y="", title="t")))
    assert a[1] == b[1]
    assert 0 < a[1] < 220


def test_several_curves_are_named_and_told_apart_without_colour():
    both = [Series("train", [(1, 2.0), (2, 1.0)]), Series(HOSTILE, [(1, 3.0), (2, 2.0)], 1)]
    root = parsed(curves(both, x="x", y="y", title=HOSTILE))
    assert "train" in texts(root)
    marks = {x.get("d") for x in root.iter("path") if "mark" in x.get("class")}
    assert len(marks) == 2


def test_a_dot_lies_in_its_interval_and_at_its_value():
    rows = [
        Interval("one", 30.0, 20.0, 40.0, "30.00"),
        Interval("two", 20.0, 20.0, 20.0, "20.00", 1),
    ]
    root = parsed(intervals(rows, title="t", share=True))
    bar = next(x for x in root.iter("path") if x.get("class") == "bar k0")
    start, end = re.findall(r"([\d.]+),", bar.get("d"))
    dots = [float(x.get("transform")[10:].split()[0]) for x in root.iter("g")]
    assert dots[0] == pytest.approx((float(start) + float(end)) / 2, abs=0.1)
    assert dots[1] == pytest.approx(float(start), abs=0.1)
    assert {"one", "two", "30.00", "20.00"} <= set(texts(root))


def test_intervals_without_numbers_keep_their_row():
    rows = [Interval(HOSTILE, math.nan, math.nan, math.nan, "–")]
    root = parsed(intervals(rows, title="t"))
    assert "–" in texts(root)
    assert not list(root.iter("g"))


def test_differences_show_where_zero_is():
    root = parsed(intervals([Interval("a", 3.0, 1.0, 5.0, "+3")], title="t", zero=True))
    zero = next(x for x in root.iter("path") if x.get("class") == "zero")
    bar = next(x for x in root.iter("path") if x.get("class") == "bar k0")
    left = [float(re.search(r"M([\d.]+)", x.get("d"))[1]) for x in (zero, bar)]
    assert left[0] < left[1]


def test_no_rows_are_an_empty_plot():
    parsed(intervals([], title="t"))


def test_a_scatter_spans_tens_by_logarithm():
    points = [(10, 1.0), (100, 2.0), (1000, 3.0), (500, math.nan)]
    means = [("a", 0, [(100, 2.0, 1.0, 3.0)]), ("b", 1, [(100, math.nan, math.nan, math.nan)])]
    root = parsed(scatter(points, means, x="words", y="score", title="t"))
    xs = [float(circle.get("cx")) for circle in root.iter("circle")]
    assert len(xs) == 3
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


@pytest.mark.parametrize("points", [[(5, 1.0)], [(0, 0.0), (0, 0.0)], [(7, 3.0)] * 3])
def test_a_scatter_of_one_place_is_drawn(points):
    root = parsed(scatter(points, [("a", 0, [(*points[0], 0.0, 1.0)])], x="x", y="y", title="t"))
    assert len(list(root.iter("circle"))) == len(points)


def test_a_scatter_of_nothing_is_none():
    assert scatter([], [("a", 0, [])], x="x", y="y", title="t") is None
    assert scatter([(1, math.nan)], [], x="x", y="y", title="t") is None


def test_distributions_have_a_bar_a_bin_and_their_median():
    values = np.array([1.0, 1.0, 2.0, 9.0, np.nan])
    rows = [("a", 0, values), (HOSTILE, 1, np.array([np.nan]))]
    root = parsed(distributions(rows, x="words", title="t", bins=8))
    (area,) = (x.get("d") for x in root.iter("path") if x.get("class").startswith("area"))
    assert area.count("M") == 3
    assert {"1.5", "none"} <= set(texts(root))


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [100.0] * 3])
def test_a_distribution_of_one_value_is_one_bar(values):
    root = parsed(distributions([("a", 0, np.array(values))], x="x", title="t"))
    (area,) = (x.get("d") for x in root.iter("path") if x.get("class").startswith("area"))
    assert area.count("M") == 1


def test_a_distribution_of_nothing_is_none():
    assert distributions([("a", 0, np.array([np.nan]))], x="x", title="t") is None
