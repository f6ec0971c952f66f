import os
import signal
import subprocess
import sys

import pytest

from sumzero.errors import RunError
from sumzero.infer.worker_pool import worker_pool


def _square(number):
    return number * number, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def _killed_at_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _fault(number):
    raise ValueError(f"no {number}")


def test_results_are_in_order_and_few_items_are_taken_ahead(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    taken = []

    def items():
        for number in range(40):
            taken.append(number)
            yield number

    with worker_pool(2) as pool:
        results = pool.map(_square, items())
        first = next(results)
        assert len(taken) <= 6
        assert "OMP_NUM_THREADS" not in os.environ  # a judge's engines start meanwhile
        found = [first, *results]
    assert [square for square, _, _ in found] == [number**2 for number in range(40)]
    assert os.getpid() not in {pid for _, pid, _ in found}
    assert {threads for _, _, threads in found} == {"1"}


def test_one_process_is_this_one():
    with worker_pool(1) as pool:
        assert {pid for _, pid, _ in pool.map(_square, [1, 2])} == {os.getpid()}


def test_a_fault_or_a_killed_process_ends_it_with_what_happened():
    with worker_pool(2) as pool, pytest.raises(ValueError, match="no 1"):
        list(pool.map(_fault, [1]))
    with worker_pool(2) as pool, pytest.raises(RunError, match="a process that scored was killed"):
        list(pool.map(_killed_at_three, range(9)))


HOLDS_A_POOL = """
import sys
from sumzero.infer.worker_pool import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(list(pool.map(abs, range(4))), flush=True)
        sys.stdin.read()
"""


def test_no_process_outlives_its_parent(tmp_path):
    script = tmp_path / "holds.py"
    script.write_text(HOLDS_A_POOL)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script)], **pipes) as parent:
        assert parent.stdout.readline() == "[0, 1, 2, 3]\n"
        parent.kill()
        # Its output ends once nobody holds it any more: the processes too have ended.
        assert parent.communicate(timeout=60)[0] == ""
