import pytest

from sumzero.ranks import Ranks, meeting_point, ranks


def test_a_lone_process_is_rank_0_of_1():
    assert ranks({}) == Ranks(rank=0, world=1, local_rank=0, local_world=1)
    assert ranks({}).is_main


def test_the_ranks_are_those_deepspeed_and_torchrun_set():
    found = ranks({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert found == Ranks(5, 8, 1, 4)
    assert not found.is_main


def test_deepspeeds_own_name_for_the_ranks_of_a_node_counts_too():
    values = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"}
    assert ranks(values).local_world == 2


def test_without_a_number_for_the_node_all_ranks_are_on_it():
    assert ranks({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}) == Ranks(1, 2, 1, 2)


@pytest.mark.parametrize("lacking", ["RANK", "WORLD_SIZE"])
def test_half_of_what_a_launcher_sets_is_no_launch(lacking):
    values = {"RANK": "1", "WORLD_SIZE": "2"}
    del values[lacking]
    assert ranks(values) == Ranks()


STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "6",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "2",
    "SLURM_NNODES": "2",
}


def test_under_srun_the_ranks_are_those_of_the_step():
    assert ranks(STEP) == Ranks(rank=6, world=8, local_rank=2, local_world=4)


def test_tasks_that_do_not_divide_over_the_nodes_give_the_fullest_node():
    assert ranks({**STEP, "SLURM_NTASKS": "7", "SLURM_PROCID": "0"}).local_world == 4


def test_an_sbatch_script_itself_is_one_process_whatever_the_job_asked_for():
    script = {key: value for key, value in STEP.items() if key != "SLURM_STEP_ID"}
    assert ranks(script) == Ranks()


def test_a_launcher_inside_an_srun_step_counts_before_the_step():
    inner = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert ranks({**STEP, **inner}) == Ranks(1, 2, 1, 2)


def test_the_environment_of_this_process_is_read_when_asked(monkeypatch):
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", *STEP):
        monkeypatch.delenv(key, raising=False)
    assert ranks() == Ranks()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks().rank == 1


ON_NODES = {
    **STEP,
    "SLURM_JOB_ID": "41",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
}


def test_a_lone_process_meets_nobody():
    assert meeting_point({}) == ("127.0.0.1", 0)
    assert meeting_point({**ON_NODES, "SLURM_NTASKS": "1"}) == ("127.0.0.1", 0)


# What `scontrol show hostnames` lists first of each.
@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node[1-2]", "node1"),
        ("n7,n8", "n7"),
        ("gpu[003,007-009]", "gpu003"),
        ("rack[1-2]n[3-4],login", "rack1n3"),
        ("gpu-a[5,7-9],gpu-b1", "gpu-a5"),
    ],
)
def test_the_ranks_of_a_step_meet_on_its_first_node(nodes, first):
    host, _ = meeting_point({**ON_NODES, "SLURM_STEP_NODELIST": nodes})
    assert host == first


def test_the_ranks_of_one_node_need_no_name_for_it():
    lone = {**ON_NODES, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "node7"}
    assert meeting_point(lone)[0] == "127.0.0.1"


def test_steps_beside_and_after_each_other_have_ports_of_their_own():
    def port(job, step):
        found = meeting_point({**ON_NODES, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
        return found[1]

    assert len({port(job, step) for job in range(41, 46) for step in range(2)}) == 10
    assert len({port(41, step) for step in range(10)}) == 10
    # Numbers of jobs and of interactive steps are large.
    assert 20_000 <= port(67_000_001, 4_294_967_290) < 32_000
