"""Preparation in several processes, and what is left of one that is killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from sumzero.errors import ConfigError, RunError
from sumzero.pipeline import prepare
from sumzero.runfolder import RunFolder
from sumzero.train.examples import store_file
from sumzero.train.parts import Tokeniser
from sumzero.train.workers import tokenise

PART = 4 * 256  # rows
PARTS = 12  # so many that a kill comes before the last
TEXT = "The cat sat on the mat and was happy to be there, for it was warm and the mat was too. "


@pytest.fixture(scope="module")
def rows():
    """Of PARTS parts; documents recur in other parts, and some rows cannot be used."""
    return [
        {
            "id": n,
            "document": "" if n % 500 == 3 else f"{n % 3000} {TEXT * 3}",
            "target": f"Cat {n}.",
        }
        for n in range((PARTS - 1) * PART + 100)
    ]


@pytest.fixture(scope="module")
def want(prepared, rows, model_folder):
    """The store that one process makes without being disturbed."""
    config = prepared.settings(prepared.new_folder(), rows, model=model_folder)
    prepare(config, processes=1)
    return store_file(RunFolder.of(config), "train").read_bytes()


@pytest.fixture
def made(monkeypatch):
    """The parts that this process tokenises."""
    names = []
    whole = Tokeniser.__call__

    def tell(self, blocks, file):
        names.append(file.name)
        whole(self, blocks, file)

    monkeypatch.setattr(Tokeniser, "__call__", tell)
    return names


def _children(process):
    try:
        return [int(pid) for pid in _proc(process.pid, "task", process.pid, "children").split()]
    except FileNotFoundError:
        return []


def _proc(*path):
    return Path("/proc", *map(str, path)).read_text()


def _runs(pid):
    try:
        return _proc(pid, "stat").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_preparation_that_is_killed_goes_on_from_its_parts(
    prepared, rows, want, model_folder, made
):
    config = prepared.settings(prepared.new_folder(), rows, model=model_folder)
    folder = RunFolder.of(config)
    folder.begin(config)
    process = subprocess.Popen(
        [sys.executable, "-m", "sumzero.cli", "prepare", str(folder.root), "--processes", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children = []
    try:
        while not (done := sorted(folder.data.glob("train.parts/*/0/*.part"))):
            children = _children(process) or children
            with pytest.raises(subprocess.TimeoutExpired):  # it has not ended by itself
                process.wait(timeout=0.01)
    finally:
        process.kill()
        process.wait()
    pause = Event()
    while any(map(_runs, children)):  # workers do not outlive their parent for long
        pause.wait(0.01)
    done = sorted(folder.data.glob("train.parts/*/0/*.part"))
    assert 1 <= len(done) < PARTS
    assert not store_file(folder, "train").exists()
    (done[0].parent / f"{PARTS - 1:07}.partial").write_bytes(b"torn")

    prepare(config, processes=1)
    assert made == [f"{n:07}.part" for n in range(PARTS) if n not in {int(x.stem) for x in done}]
    assert store_file(folder, "train").read_bytes() == want
    assert not list(folder.data.glob("train.parts"))


def test_two_processes_make_the_same_store_even_after_one_was_killed(
    prepared, rows, want, model_folder
):
    config = prepared.settings(prepared.new_folder(), rows, model=model_folder)
    store = store_file(RunFolder.of(config), "train")
    ended, pause = Event(), Event()

    def kill_one():
        while not (workers := multiprocessing.active_children()) and not ended.is_set():
            pause.wait(0.01)
        if workers:
            os.kill(workers[0].pid, signal.SIGKILL)

    killer = Thread(target=kill_one)
    killer.start()
    try:
        with pytest.raises(RunError, match="process that tokenised was killed") as error:
            prepare(config, processes=2)
    finally:
        ended.set()
        killer.join()
    assert "\n" not in str(error.value)
    assert not store.exists()
    assert not multiprocessing.active_children()
    prepare(config, processes=2)
    assert store.read_bytes() == want


def test_a_number_of_processes_that_cannot_be_is_refused(prepared, rows):
    with pytest.raises(ConfigError, match="--processes: must be at least 1"):
        prepared(rows[:3], processes=-1)


def test_parts_are_in_order_and_only_the_missing_are_made(prepared, tmp_path, made):
    rows = [{"document": "A cat.", "target": str(n)} for n in range(2 * PART + 1)]
    config = prepared.settings(tmp_path, rows)
    tokeniser = Tokeniser(config.data.train[0], config.data, prepared.renderer())
    files = tokenise(tokeniser, tmp_path / "work", "train", 1)
    assert [file.name for file in files] == [f"000000{n}.part" for n in range(3)]
    files[1].unlink()
    made.clear()
    assert tokenise(tokeniser, tmp_path / "work", "train", 1) == files
    assert made == ["0000001.part"]
