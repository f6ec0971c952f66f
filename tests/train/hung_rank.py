"""Run by test_watch.py in place of `sumzero.train`: its data hang, or fail, at the tenth document.

Its first argument says which: "hang", "fail" with an error of ours, or "disk" with one of the
system's; the others are those of `sumzero.train`.
"""

import errno
import sys
import threading

from sumzero import log
from sumzero.errors import RunError, guarded
from sumzero.ranks import ranks
from sumzero.train import __main__ as program
from sumzero.train import batches

how = sys.argv.pop(1)
family, calls = batches.family, iter(range(10))


def broken(*arguments):
    if next(calls, None) is None:
        if how == "hang":  # as a file server does
            threading.Event().wait()
        if how == "disk":
            raise OSError(errno.ENOSPC, "full", "/scratch")
        raise RunError("this rank's disk is broken")
    return family(*arguments)


batches.family = broken
log.configure(ranks())
sys.exit(guarded(program.main, is_main_rank=ranks().is_main))
