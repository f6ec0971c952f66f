import pytest

from sumzero.config import Train
from sumzero.errors import RunError
from sumzero.train.standing import Standing, is_finished


def test_skipped_steps_in_a_row_end_the_run_with_their_numbers_and_records():
    standing = Standing(step=4)
    for is_skipped in (True, True, False, True, True):
        standing.step += 1
        standing.count_skipped(is_skipped)
        standing.check_skipped(3, ["a"])
    standing.step += 1
    standing.count_skipped(True)
    with pytest.raises(RunError, match=r"steps 8 to 10: .*step 10 had the records a, b, c, \.\.\."):
        standing.check_skipped(3, ["a", "b", "c", "d"])
    assert standing.skipped == 5


def test_the_best_evaluation_and_those_after_it_are_counted():
    standing = Standing()
    found = []
    for step, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.0, 1.5], start=1):
        standing.step = step
        found.append((standing.evaluated(loss), standing.worse_in_a_row))
    assert found == [(True, 0), (True, 0), (False, 1), (False, 2), (True, 0), (False, 1)]
    assert (standing.best, standing.best_step) == (1.0, 5)
    assert Standing.of(standing.as_state()) == standing


def test_a_loss_that_is_not_a_number_is_never_the_best():
    standing = Standing()
    assert not standing.evaluated(float("nan"))
    assert standing.evaluated(2.0)


def test_evaluations_on_other_data_are_forgotten():
    standing = Standing()
    assert not standing.evaluate_on("a")
    standing.evaluated(2.0)
    standing.evaluated(3.0)
    assert not standing.evaluate_on("a")
    assert standing.evaluate_on("b")
    assert (standing.best, standing.best_step, standing.worse_in_a_row) == (None, None, 0)


@pytest.mark.parametrize(
    ("step", "worse", "finished"), [(9, 0, False), (10, 0, True), (3, 2, True), (3, 1, False)]
)
def test_a_run_is_finished_at_its_last_step_or_when_evaluations_get_no_better(
    step, worse, finished
):
    standing = Standing(step=step, worse_in_a_row=worse)
    assert is_finished(standing, 10, Train(early_stop=2)) is finished
