import subprocess
import sys

PROGRAM = """
import resource, sys, torch
from sumzero.train.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def use():
    torch.ones(64 * 2**20, dtype=torch.uint8).add_(1)

for _ in range(10):  # until the heap is as large as it will be
    use()
before = faults()
for _ in range(10):
    use()
print(faults() - before)
"""


def _faults(how):
    run = [sys.executable, "-c", PROGRAM, how]
    return int(subprocess.run(run, capture_output=True, check=True, text=True).stdout)


def test_memory_that_was_freed_is_used_again_without_page_faults():
    assert _faults("keep") < _faults("as it is") / 10
