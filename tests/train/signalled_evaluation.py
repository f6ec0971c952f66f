"""Run by test_broken_off.py in place of `sumzero.train`: it is signalled amid an evaluation.

The last argument says in which one, from 1; the signal comes before its second bin.
"""

import os
import signal
import sys

from sumzero.train import __main__ as program
from sumzero.train.evaluation import Evaluation


def main():
    number = int(sys.argv.pop())
    losses, batch = Evaluation.losses, Evaluation._batch
    evaluations = bins = 0

    def counted(self, *arguments):
        nonlocal evaluations, bins
        evaluations, bins = evaluations + 1, 0
        return losses(self, *arguments)

    def signalled(self, *arguments):
        nonlocal bins
        bins += 1
        if (evaluations, bins) == (number, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, *arguments)

    Evaluation.losses, Evaluation._batch = counted, signalled
    return program.main()
