"""Ranks that hang or die end the job soon, with a line that names them; real processes are hit."""

import re
import signal

import pytest

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl

LIMIT = "train.stall_minutes=0.4"  # loading takes seconds


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tiny_run):
    return tiny_run(tmp_path_factory.mktemp("watch"), max_steps=4000, epochs=1000)


@pytest.fixture
def running(run_file, start_ranks, request):
    """Two ranks that have made some steps, and their run folder."""
    name = f"name={request.node.name.partition('[')[0]}"
    config = load(run_file, [name])
    prepare(config)
    folder = RunFolder.of(config)
    launched = start_ranks(2, run_file, name, LIMIT)
    launched.until(lambda: len(_events(folder, "step")) >= 3)
    return launched, folder


def _events(folder, kind):
    return [x for x in read_jsonl(folder.root / "events.jsonl") if x["event"] == kind]


def test_a_stopped_rank_is_named_with_the_step(running):
    launched, folder = running
    launched.processes[1].send_signal(signal.SIGSTOP)
    assert launched.processes[0].wait(timeout=120) == 76
    launched.kill()
    (line,) = launched.lines()
    told = r"sumzero: rank 1 does not answer: stopped or dead; rank 0 waits at step \d+, .*0\.4 min"
    assert re.match(told, line), line
    (stalled,) = _events(folder, "stalled")
    assert stalled["message"] in line
    assert "most recent call first" in launched.said()  # the stacks


def test_a_stopped_rank_0_is_named_by_another(running):
    launched, _ = running
    launched.processes[0].send_signal(signal.SIGSTOP)
    assert launched.processes[1].wait(timeout=120) == 76
    launched.kill()
    (line,) = launched.lines()
    assert "rank 0 does not answer: it is stopped or dead" in line


def test_a_dead_rank_is_named_at_once(running):
    launched, _ = running
    launched.processes[1].kill()
    assert launched.processes[0].wait(timeout=120) == 76
    (line,) = launched.lines()
    assert re.match(r"sumzero: rank 1 does not answer: stopped or dead; rank 0 .* step \d+,", line)
