"""What has become of a run's jobs where no Slurm answers: by their logs alone."""

import pytest

from sumzero import jobs
from sumzero.jobs import Job
from sumzero.runfolder import RunFolder
from sumzero.status import status, table

OK = "sumzero: job 7 ended with exit code 0\n"
FAULT = "rows.jsonl:3: no\nsumzero: job 7 ended with exit code 2\n"


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def standing(tmp_path, tasks, **logs):
    folder = RunFolder(tmp_path / "run")
    jobs.logs(folder).mkdir(parents=True)
    for name, text in logs.items():
        (jobs.logs(folder) / f"train-{name.removeprefix('of_')}.log").write_text(text)
    jobs.write(folder, [Job("train", "token", "digest", [], tasks, 0.0, "7")])
    return folder, jobs.latest(folder, {})["train"]


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        (OK, "COMPLETED", ""),
        (FAULT, "FAILED", "exit code 2"),
        (FAULT + "slurmstepd: error: *** JOB 7 ON node1 CANCELLED ***\n", "FAILED", "exit code 2"),
        (FAULT + OK, "COMPLETED", ""),  # the last attempt counts
        (FAULT + "again\n", "UNKNOWN", "Slurm has forgotten it"),  # killed in the next attempt
        ("bar: 10%\rbar: 100%\r" + OK, "COMPLETED", ""),
        ("", "UNKNOWN", "Slurm has forgotten it"),
        ("sumzero: job 7 ended with exit code 0 or so\n", "UNKNOWN", "Slurm has forgotten it"),
    ],
)
def test_the_last_line_of_a_log_tells(tmp_path, text, state, reason):
    _, found = standing(tmp_path, 0, of_7=text)
    assert (found.state, found.is_active) == (state, False)
    assert found.reason.startswith(reason)


def test_an_array_is_as_good_as_its_worst_task(tmp_path):
    folder, found = standing(tmp_path, 3, of_7_0=OK, of_7_1=FAULT, of_7_2=OK)
    assert (found.state, found.failed) == ("FAILED", (1,))
    assert found.tail() == FAULT.splitlines()
    said = table(status(folder))
    assert "train             job 7        FAILED (tasks 1 failed; exit code 2)" in said
    assert said.splitlines()[-2:] == [f"  {line}" for line in FAULT.splitlines()]


def test_a_log_that_is_not_there_is_no_success(tmp_path):
    _, found = standing(tmp_path, 2, of_7_0=OK)
    assert (found.state, found.failed) == ("UNKNOWN", (1,))


def test_only_the_end_of_a_long_log_is_read(tmp_path):
    _, found = standing(tmp_path, 0, of_7="x" * 79 + "\n" + ("line\n" * 100_000) + FAULT)
    assert len(found.tail()) == 20
    assert found.tail()[-1] == FAULT.splitlines()[-1]


def test_a_run_without_jobs_has_none(tmp_path):
    (tmp_path / "run").mkdir()
    assert status(RunFolder(tmp_path / "run"))["jobs"] == []
