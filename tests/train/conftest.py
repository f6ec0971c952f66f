import os
import signal
import socket
import subprocess
import sys

import pytest


def command(ranks, run_file, *overrides):
    """The arguments and environment that start a training on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks)),
        *("--master_addr", "127.0.0.1", "--master_port", str(port)),
        *("--module", "sumzero.train", str(run_file), *overrides),
    ]
    return arguments, {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="session")
def launch():
    """Trains to the end, by DeepSpeed's launcher; fails with the output where it fails."""

    def run(ranks, run_file, *overrides, expect=0):
        arguments, environment = command(ranks, run_file, *overrides)
        done = subprocess.run(
            arguments,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="session")
def kill_after():
    """Starts a training and kills the whole process group by SIGKILL once a condition holds."""

    def run(condition, ranks, run_file, *overrides):
        arguments, environment = command(ranks, run_file, *overrides)
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not condition():
                try:
                    process.wait(timeout=0.01)
                except subprocess.TimeoutExpired:
                    continue
                pytest.fail(f"training ended by itself with {process.returncode}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return run
