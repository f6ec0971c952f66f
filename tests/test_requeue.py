"""Which attempts of a training job are made again, and what a job ends with that is not."""

import json

import pytest

from sumzero.requeue import MAX_IN_VAIN, MAX_RESTARTS, Attempt, decide, main, verdict
from sumzero.runfolder import RunFolder


def attempt(code, **changes):
    facts = {"finished": False, "before": 10, "now": 20, "in_vain": 0, "restarts": 0}
    return Attempt(code, **{**facts, **changes})


@pytest.mark.parametrize(
    ("code", "changes", "again", "ends_with"),
    [
        (0, {"finished": True}, False, 0),
        (0, {}, True, 0),  # `deepspeed` says 0 where its agent was killed
        (2, {}, False, 2),
        (75, {}, True, 75),
        (75, {"now": 10, "in_vain": MAX_IN_VAIN}, True, 75),  # it was not the run's fault
        (76, {}, True, 76),
        (77, {"now": 10}, True, 77),
        (137, {"now": 10, "in_vain": MAX_IN_VAIN - 2}, True, 137),
        (137, {"now": 10, "in_vain": MAX_IN_VAIN - 1}, False, 137),
        (137, {"in_vain": MAX_IN_VAIN - 1}, True, 137),  # it reached a new checkpoint
        (0, {"now": 10, "in_vain": MAX_IN_VAIN - 1}, False, 76),  # never a success
        (75, {"restarts": MAX_RESTARTS}, False, 75),
    ],
)
def test_what_is_made_again(code, changes, again, ends_with):
    made_again, exit_code, _ = verdict(attempt(code, **changes))
    assert (made_again, exit_code) == (again, ends_with)


def test_attempts_in_vain_are_remembered_of_the_same_job(tmp_path):
    folder, file = RunFolder(tmp_path), tmp_path / "attempts.json"
    past = {"job": "7", "checkpoint": 0, "in_vain": MAX_IN_VAIN - 1}
    file.write_text(json.dumps(past))
    assert decide(folder, 137, {"SLURM_JOB_ID": "7"}, []) == 137
    assert json.loads(file.read_text())["in_vain"] == MAX_IN_VAIN
    assert decide(folder, 2, {"SLURM_JOB_ID": "8"}, []) == 2
    assert json.loads(file.read_text()) == {"job": "8", "checkpoint": 0, "in_vain": 1}


def test_a_fault_in_the_run_file_itself_is_no_reason_to_read_it(tmp_path, monkeypatch):
    said = tmp_path / "exit"
    said.write_text("2\n")
    command = ["requeue", "--srun", "143", "--exit-file", str(said), str(tmp_path / "none.toml")]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 2
