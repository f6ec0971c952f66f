"""Ways to start the ranks of a training: by DeepSpeed's launcher, or one by one."""

import os
import subprocess
import sys

import pytest

from sumzero.pipeline import free_port


def command(ranks, run_file, *overrides):
    """The arguments and environment that start a training on this machine."""
    return rank_arguments(ranks, "--module", "sumzero.train", run_file, *overrides)


def rank_arguments(ranks, *program):
    """The same, of a program of ours with its arguments."""
    port = free_port()
    arguments = [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks)),
        *("--master_addr", "127.0.0.1", "--master_port", str(port)),
        *(str(argument) for argument in program),
    ]
    return arguments, {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore"}


class Launched:
    """Ranks that run without a launcher; what they say is in files."""

    def __init__(self, folder, ranks, run_file, *overrides, programs=None, accelerator="cpu"):
        """`programs` are those of some ranks in place of `-m sumzero.train`."""
        port = free_port()
        self.outputs = [folder / f"rank-{rank}.txt" for rank in range(ranks)]
        self.processes = []
        for rank, output in enumerate(self.outputs):
            names = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "MASTER_PORT": port}
            program = (programs or {}).get(rank, ("-m", "sumzero.train"))
            with output.open("w") as out:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *program, str(run_file), *overrides],
                        env={
                            **os.environ,
                            **{name: str(value) for name, value in names.items()},
                            **{"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
                            **{"DS_ACCELERATOR": accelerator, "PYTHONWARNINGS": "ignore"},
                        },
                        stdout=out,
                        stderr=subprocess.STDOUT,
                    )
                )

    def until(self, condition):
        """Waits for something that the ranks bring about; fails where one ends before."""
        while not condition():
            for process in self.processes:
                try:
                    process.wait(timeout=0.01)
                except subprocess.TimeoutExpired:
                    continue
                pytest.fail(f"a rank ended with {process.returncode}:\n{self.said()}")

    def codes(self, timeout=180):
        """The exit codes of all ranks."""
        return [process.wait(timeout=timeout) for process in self.processes]

    def said(self):
        """What the ranks wrote, one after the other."""
        return "\n".join(output.read_text(errors="replace") for output in self.outputs)

    def lines(self):
        """The lines in which a user is told what is wrong."""
        return [line for line in self.said().splitlines() if line.startswith("sumzero:")]

    def kill(self):
        """Ends what still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
