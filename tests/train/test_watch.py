"""Ranks that hang or die end the job soon, with a line that names them; real processes are hit."""

import re
import signal
from pathlib import Path

import pytest

from sumzero.pipeline import prepare
from sumzero.runfile import load
from sumzero.runfolder import RunFolder, read_jsonl

HUNG_RANK = str(Path(__file__).with_name("hung_rank.py"))
LIMIT = "train.stall_minutes=0.4"  # loading takes seconds


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, tiny_run):
    return tiny_run(tmp_path_factory.mktemp("watch"), max_steps=4000, epochs=1000)


def _prepared(run_file, request):
    name = f"name={re.sub(r'[^a-z0-9_]+', '-', request.node.name)[:60]}"
    config = load(run_file, [name])
    prepare(config)
    return name, RunFolder.of(config)


@pytest.fixture
def running(run_file, start_ranks, request):
    """Two ranks that have made some steps, and their run folder."""
    name, folder = _prepared(run_file, request)
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


def test_a_rank_that_hangs_is_named_and_not_those_that_wait_for_it(run_file, start_ranks, request):
    name, _ = _prepared(run_file, request)
    launched = start_ranks(2, run_file, name, LIMIT, programs={1: (HUNG_RANK, "hang")})
    assert launched.codes() == [76, 76]
    (line,) = launched.lines()
    told = (
        r"sumzero: rank 1 does not go on from step \d+, waiting for its batches; no step was made"
    )
    assert re.match(told, line), line


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("fail", "this rank's disk is broken"),
        ("disk", "/scratch: No space left on device"),
    ],
)
def test_a_fault_of_one_rank_ends_all_with_its_code_and_words(
    run_file, start_ranks, request, how, told
):
    name, _ = _prepared(run_file, request)
    launched = start_ranks(2, run_file, name, programs={1: (HUNG_RANK, how)})
    assert launched.codes() == [2, 2]
    first, _ = launched.lines()  # without a launcher, which ends it, rank 1 speaks as well
    assert first.startswith(f"sumzero: rank 1: {told}")
