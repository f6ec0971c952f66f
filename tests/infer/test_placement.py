import pytest

from sumzero.errors import ConfigError
from sumzero.infer.placement import Place, core_groups, gpu_groups

FOUR = ("0", "GPU-5f", "2", "3")


@pytest.mark.parametrize(
    ("engines", "each", "gpus"),
    [
        (None, 1, [("0",), ("GPU-5f",), ("2",), ("3",)]),
        (None, 2, [("0", "GPU-5f"), ("2", "3")]),
        (None, 3, [("0", "GPU-5f", "2")]),
        (1, 2, [("0", "GPU-5f")]),
    ],
)
def test_each_engine_has_gpus_of_its_own(engines, each, gpus):
    assert gpu_groups(engines, each, FOUR) == [Place(gpus=group) for group in gpus]


def test_gpus_that_stay_idle_are_told(caplog):
    gpu_groups(None, 3, FOUR)
    assert "1 of 4 GPUs stay idle" in caplog.text


def test_more_than_there_are_gpus_or_cores_for_is_refused():
    with pytest.raises(ConfigError, match=r"generate\.tensor_parallel: 8 GPUs an engine.* 4 here"):
        gpu_groups(None, 8, FOUR)
    with pytest.raises(ConfigError, match=r"generate\.engines: 3 of 2 GPUs each.* 4 here"):
        gpu_groups(3, 2, FOUR)
    with pytest.raises(ConfigError, match=r"generate\.engines: 3.* 2 cores here"):
        core_groups(3, [0, 1])


def test_engines_share_the_cores_out_and_a_lone_one_is_bound_to_none():
    cores = [0, 8, 1, 9, 2]  # in pairs of hardware threads
    assert core_groups(1, cores) == [Place()]
    assert core_groups(2, cores) == [Place(cores=(0, 8)), Place(cores=(1, 9, 2))]
    assert [len(place.cores) for place in core_groups(5, cores)] == [1] * 5
