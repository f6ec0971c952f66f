from hypothesis import given
from hypothesis import strategies as st

from sumzero.infer.ids import IdSet


@given(st.lists(st.text(max_size=3)))
def test_it_tells_as_a_set_does(ids):
    ours, theirs = IdSet(), set()
    for id_ in ids:
        assert (id_ in ours) == (id_ in theirs)
        ours.add(id_)
        theirs.add(id_)
        assert len(ours) == len(theirs)


def test_it_grows_and_keeps_all():
    ours = IdSet()
    for number in range(5000):
        ours.add(str(number))
    assert len(ours) == 5000
    assert all(str(number) in ours for number in range(5000))
    assert not any(str(number) in ours for number in range(5000, 10_000))
