import json
import time

import pytest

from sumzero import log
from sumzero.log import Events, logger, progress
from sumzero.ranks import Ranks


def speak(capsys, who):
    log.configure(who)
    logger.debug("a detail")
    logger.info("step %d", 3)
    logger.warning("careful")
    captured = capsys.readouterr()
    assert captured.out == ""  # stdout is for results
    return captured.err


def test_a_lone_process_speaks_without_a_prefix(capsys):
    assert speak(capsys, Ranks()) == "step 3\ncareful\n"


def test_rank_0_of_several_speaks_with_its_rank(capsys):
    assert speak(capsys, Ranks(0, 2)) == "[rank 0] step 3\n[rank 0] careful\n"


def test_other_ranks_only_warn(capsys):
    assert speak(capsys, Ranks(1, 2)) == "[rank 1] careful\n"


def test_configuring_twice_says_nothing_twice(capsys):
    log.configure(Ranks())
    assert speak(capsys, Ranks()) == "step 3\ncareful\n"


def test_other_libraries_loggers_are_left_alone(capsys):
    log.configure(Ranks())
    assert not logger.propagate
    assert logger.root.level >= 30


@pytest.fixture
def rank(monkeypatch):
    def be(number):
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", "2")

    return be


@pytest.mark.parametrize("number", [0, 1])
def test_progress_passes_on_what_it_is_given(rank, number):
    rank(number)
    assert list(progress(iter("abc"), "reading", total=3)) == ["a", "b", "c"]


def test_short_work_shows_no_progress(capsys):
    list(progress(range(3), "reading"))
    assert capsys.readouterr().err == ""


def test_long_work_is_shown_by_rank_0(rank, capsys):
    rank(0)
    with progress(iter(()), "tokenising", total=10, unit=" records") as bar:
        bar.start_t -= 60  # as if begun a minute ago
        bar.last_print_t = bar.start_t
        bar.update(5)
    found = capsys.readouterr().err
    assert "tokenising:  50%" in found
    assert "5/10" in found
    assert found.isascii()  # no terminal here: a log file


def test_other_ranks_show_no_progress(rank):
    rank(1)
    with progress(iter(()), "tokenising", total=10) as bar:
        assert bar.disable
        bar.update(5)


def test_events_are_one_json_object_a_line_in_order(tmp_path):
    file = tmp_path / "events.jsonl"
    before = time.time()
    Events(file).write("step", step=1, loss=2.5)
    Events(file).write("note", text="two\nlines, „quoted“")
    first, second = (json.loads(line) for line in file.read_bytes().splitlines())
    assert before - 0.001 <= first.pop("time") <= second.pop("time") <= time.time() + 0.001
    assert first == {"event": "step", "step": 1, "loss": 2.5}
    assert second == {"event": "note", "text": "two\nlines, „quoted“"}


def test_an_event_that_is_no_json_leaves_no_half_line(tmp_path):
    file = tmp_path / "events.jsonl"
    events = Events(file)
    events.write("good")
    with pytest.raises(TypeError):
        events.write("bad", value=object())
    events.write("good")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["good", "good"]
