from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.training_curves import running_mean, thinned, training_curves


def step(number, loss, **more):
    return {"event": "step", "step": number, "loss": loss, **more}


def test_steps_that_were_run_again_count_as_run_last():
    events = [step(1, 5.0), step(2, 4.0), step(3, 9.0), step(2, 3.0), step(3, 2.0)]
    assert training_curves(events).loss == [(1, 5.0), (2, 3.0), (3, 2.0)]


def test_what_was_not_finite_is_left_out():
    assert training_curves([step(1, 5.0), step(2, None), step(3, 4.0)]).loss == [(1, 5.0), (3, 4.0)]


def test_evaluations_are_curves_of_their_own():
    events = [step(1, 5.0), {"event": "evaluation", "step": 1, "loss": 5.5}, {"event": "start"}]
    made = training_curves(events)
    assert made.validation == [(1, 5.5)]
    assert made.speed == []


def test_many_steps_have_a_running_mean():
    assert training_curves([step(n, 1.0) for n in range(39)]).smooth == []
    made = training_curves([step(n, float(n % 2)) for n in range(100)])
    assert made.window == 4
    assert made.smooth[-1] == (99, 0.5)


def test_no_training_is_no_curve():
    assert training_curves([{"event": "stage", "stage": "score", "seconds": 1}]).loss == []


def test_the_running_mean_begins_with_what_there_is():
    assert running_mean([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1, 2.0), (2, 3.0), (3, 6.5)]


@given(st.lists(st.floats(-5, 5), max_size=300))
def test_thinning_keeps_order_ends_and_extremes(values):
    points = list(enumerate(values))
    found = thinned(points, 40)
    assert found == sorted(found)
    assert len(found) <= max(40, 0)
    assert set(found) <= set(points)
    if values:
        assert max(v for _, v in found) == max(values)
        assert min(v for _, v in found) == min(values)
