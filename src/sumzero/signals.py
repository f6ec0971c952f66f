"""What signals do until a training can save: they end it as a preemption, with nothing lost."""

import os
import signal
from types import FrameType

from sumzero.errors import EXIT_PREEMPTED
from sumzero.log import logger
from sumzero.ranks import tell_exit

PREEMPTION = (signal.SIGTERM, signal.SIGUSR1)


def end_as_preempted() -> None:
    """From here on SIGTERM and SIGUSR1 end this process at once with EXIT_PREEMPTED."""
    for number in PREEMPTION:
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    logger.warning("%s before the first step: ended", signal.Signals(number).name)
    os._exit(tell_exit(EXIT_PREEMPTED))
