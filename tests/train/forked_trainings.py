"""Run by trainings.py: imports what training needs once, and forks a process for each training.

Reads a training a line as JSON from stdin and answers on stdout how it ended. A training is killed
by SIGKILL: from outside after some seconds, or by itself at its n-th change of the checkpoints.
"""

import ctypes
import errno
import json
import os
import re
import resource
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from sumzero.errors import guarded
from sumzero.pipeline import free_port
from sumzero.train.__main__ import main as train_main

NOT_PERMITTED = 77  # exit code where mounts are not allowed


def kill_at(change, kind):
    """Arms this process: SIGKILL before its n-th change of the checkpoints.

    They are counted from where a folder of this kind is begun: "step-" a save, "universal" another.
    """
    done = 0

    def look(event, arguments):
        nonlocal done
        path = str(arguments[0]) if arguments else ""
        if event == "os.symlink":
            path = str(arguments[1])
        if "/checkpoints" not in path:
            return
        begins = event == "os.mkdir" and re.search(f"/checkpoints/{kind}[0-9]*.partial$", path)
        changes = event in ("open", "os.rename", "os.symlink") or (
            event in ("os.remove", "shutil.rmtree") and os.path.lexists(path)
        )
        if (begins and not done) or (changes and done):
            done += 1
            if done == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def full_at(file):
    """Arms this process: its disk is full when this file is to be opened."""

    def look(event, arguments):
        if event == "open" and str(arguments[0]).endswith(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(look)


def child(rank, ranks, port, training):
    log = os.open(training["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if training.get("kill_at") and rank == training.get("kill_rank", 0):
        kill_at(training["kill_at"], training.get("kill_in", "step-"))
    if training.get("full_at"):
        full_at(training["full_at"])
    if training.get("limit") and rank == training.get("limit_rank", 0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (training["limit"], training["limit"]))
    if disk := training.get("disk"):
        mount_alone(disk, training["size"])
    sys.argv = ["program", *training["arguments"]]
    main = train_main
    if program := training.get("program"):
        main = runpy.run_path(program)["main"]
    try:
        code = guarded(main, is_main_rank=rank == 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    if disk:
        print("left:", *sorted(str(path.relative_to(disk)) for path in Path(disk).rglob("*")))
    sys.stdout.flush()
    os._exit(code)


def mount_alone(folder, size):
    """Mounts what only this process sees: a copy of the folder on a small disk, or read-only."""
    if ctypes.CDLL(None).unshare(0x00020000):  # CLONE_NEWNS
        os._exit(NOT_PERMITTED)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    if size:
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True, symlinks=True)
            options = ["-t", "tmpfs", "-o", f"size={size}k", "none"]
            subprocess.run(["mount", *options, folder], check=True)
            shutil.copytree(copy, folder, dirs_exist_ok=True, symlinks=True)
    else:
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def run(training):
    ranks = training.get("ranks", 1)
    port = free_port()
    begun = time.monotonic()
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            child(rank, ranks, port, training)
        pids.append(pid)
    handles = [os.pidfd_open(pid) for pid in pids]
    limit = begun + training.get("kill_after", 300.0)
    left, statuses = set(handles), {}
    while left:
        ended, _, _ = select.select(left, [], [], max(0.0, limit - time.monotonic()))
        for handle in ended:
            statuses[handle] = os.waitstatus_to_exitcode(
                os.waitpid(pids[handles.index(handle)], 0)[1]
            )
            left.discard(handle)
        if not ended or any(status < 0 for status in statuses.values()):
            for handle in left:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            limit = time.monotonic() + 60.0
    for handle in handles:
        os.close(handle)
    return {"codes": [statuses[handle] for handle in handles], "seconds": time.monotonic() - begun}


def main():
    import deepspeed.runtime.zero.muon.original_muon  # noqa: F401 - takes long: before the forks
    import peft  # noqa: F401
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401

    import sumzero.train.loop  # noqa: F401

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    assert threading.active_count() == 1, "a thread would not live on in the forks"
    for line in sys.stdin:
        out.write(json.dumps(run(json.loads(line))) + "\n")
        out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
