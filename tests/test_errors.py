import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sumzero import errors
from sumzero.cli import main
from sumzero.errors import ConfigError, DataError, RunError, SumZeroError, guarded


def raising(error):
    def command():
        raise error

    return command


def test_a_command_that_ends_well_gives_its_own_code(capsys):
    assert guarded(lambda: 0) == 0
    assert guarded(lambda: 1) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [DataError, RunError, SumZeroError])
def test_a_users_fault_is_one_line_and_code_2(capsys, kind):
    assert guarded(raising(kind("rows.jsonl:3: empty text"))) == 2
    captured = capsys.readouterr()
    assert captured.err == "sumzero: rows.jsonl:3: empty text\n"
    assert captured.out == ""


def test_a_config_error_has_a_line_for_every_problem(capsys):
    assert guarded(raising(ConfigError(["a.toml: lr: wrong", "a.toml: sed: no such"]))) == 2
    assert capsys.readouterr().err == "sumzero: a.toml: lr: wrong\nsumzero: a.toml: sed: no such\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x", "/runs/a"), "/runs/a: No space left on device; nothing half-"),
        (OSError(errno.ENOSPC, "x"), "No space left on device; nothing half-written was kept"),
        (OSError(errno.EDQUOT, "x", "/runs/a"), "/runs/a: Disk quota exceeded; nothing half-"),
        (OSError(errno.EROFS, "x", "/r"), "/r: Read-only file system; choose another folder with"),
        (PermissionError(errno.EACCES, "x", "/r"), "/r: Permission denied; choose another folder"),
        (RuntimeError("write: No space left on device (os error 28)"), "No space left on device;"),
        (RuntimeError("PytorchStreamWriter failed writing file"), "No space left on device;"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
            "No space left on device;",
        ),
        (
            RuntimeError("gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]"),
            "another rank ended;",
        ),
    ],
)
def test_a_fault_of_the_machine_is_one_line_and_code_2(capsys, error, said):
    assert guarded(raising(error)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"sumzero: {said}")


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("ours"),
        KeyError("ours"),
        AssertionError(),
        OSError(errno.EBADF, "x", "/r"),
        BrokenPipeError(errno.EPIPE, "of a worker, not of stdout"),
    ],
    ids=["value", "key", "assertion", "other OS error", "other pipe"],
)
def test_a_bug_keeps_its_traceback(capsys, bug):
    with pytest.raises(type(bug)) as caught:
        guarded(raising(bug))
    assert caught.value is bug
    assert capsys.readouterr().err == ""


def test_a_reader_of_our_output_that_has_gone_is_no_bug():
    program = "import sys; from sumzero.errors import guarded; sys.exit(guarded(lambda: print(1)))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_is_quiet_and_gives_the_shells_code(capsys):
    assert guarded(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_an_exit_goes_through():
    with pytest.raises(SystemExit):
        guarded(raising(SystemExit(3)))


def test_other_ranks_give_rank_0_ten_seconds_to_say_it_first(capsys, monkeypatch):
    waited = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    assert guarded(raising(DataError("no rows")), is_main_rank=False) == 2
    assert waited == [10]
    assert capsys.readouterr().err == "sumzero: no rows\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["prepare", "no-such.toml"],
            "no-such.toml: no such run file or folder; recipes/ has examples",
        ),
        (
            ["export", "no-such-run/"],
            "no-such-run: no such run file or folder; recipes/ has examples",
        ),
    ],
)
def test_the_command_line_turns_faults_into_lines(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"sumzero: {said}\n"


def test_the_command_line_tells_all_faults_of_a_run_file(capsys, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("sed = 1\n[train]\nlr = 0\n")
    assert main(["prepare", str(file), "data.max_length=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"sumzero: {file}: ") for line in lines)


# Runs in a mount namespace of its own: `sumzero prepare` on disks of several sizes, each too small,
# then once more after room was made, and on a disk that is large enough from the start.
ON_SMALL_DISKS = """
import contextlib, hashlib, io, json, os, subprocess, sys
from pathlib import Path

from sumzero.cli import main

disk, run = Path(sys.argv[1]), sys.argv[2]


def prepare():
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(["prepare", run, f"runs={disk}/runs"])
    return {"code": code, "err": err.getvalue(), "files": files()}


def files():
    found = [file for file in sorted(disk.rglob("*")) if file.is_file()]
    return {str(f.relative_to(disk)): hashlib.md5(f.read_bytes()).hexdigest() for f in found}


def used():
    state = os.statvfs(disk)
    return (state.f_blocks - state.f_bfree) * state.f_frsize // 1024


def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)


mount("size=64m")
results = {"enough": prepare()}
whole = used()
subprocess.run(["umount", disk], check=True)
for size in (4, whole // 8, whole // 3, whole // 2, whole - 4):
    mount(f"size={size}k")
    full = prepare()
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    results[f"{size} KiB"] = {"full": full, "again": prepare()}
    subprocess.run(["umount", disk], check=True)
print(json.dumps(results))
"""


def test_a_full_disk_is_one_line_and_nothing_half_written_is_taken_for_whole(namespace, tmp_path):
    command, disk = namespace
    rows = tmp_path / "rows.jsonl"
    with rows.open("w") as out:
        for i in range(200):
            row = {
                "document": f"The {i} cats sat on mat number {i * 7}. " * 3,
                "target": f"{i} cats.",
            }
            out.write(json.dumps(row) + "\n")
    run = tmp_path / "run.toml"
    run.write_text(
        f'[data]\nmax_length = 256\ntrain = {{ path = "{rows}" }}\n[model.scratch]\n'
        "vocab_size = 300\nhidden_size = 16\nnum_layers = 1\nnum_heads = 1\nnum_kv_heads = 1\n"
        "intermediate_size = 16\n"
    )
    python = [sys.executable, "-W", "ignore", "-c", ON_SMALL_DISKS]
    done = subprocess.run(
        [*command, *python, str(disk), str(run)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    enough = results.pop("enough")
    assert enough["code"] == 0, enough["err"]
    assert len(results) == 5
    for size, result in results.items():
        full, again = result["full"], result["again"]
        said = [line for line in full["err"].splitlines() if line.startswith("sumzero: ")]
        assert full["code"] == 2, size
        assert len(said) == 1, size
        assert "No space left on device" in said[0]
        assert "Traceback" not in full["err"]
        # What is there under its final name is what a run that met no fault writes there.
        assert full["files"].items() <= enough["files"].items(), size
        assert again["code"] == 0, again["err"]
        assert again["files"] == enough["files"], size
