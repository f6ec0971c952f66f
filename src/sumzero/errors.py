"""The errors a user can cause and mend; the command line turns each into one line and exit code 2.

    SumZeroError
    |-- ConfigError   the run file or an override: names the key
    |-- DataError     a record, a file of records, a tokenizer or a model: names file and line
    `-- RunError      the state on disk or the machine: a stage missing, a disk full, a part absent
        |-- RankLost  a rank of the launch died or hangs; the run can go on from its checkpoint
        `-- BadNodes  nodes of the launch are not fit for it; without them it can go on

Anything else that escapes is a bug of ours and keeps its traceback. Exit codes of training: 0 it is
finished, EXIT_FAULT, EXIT_PREEMPTED or EXIT_RANK_LOST; the last two ask to be started again, and so
does EXIT_BAD_NODES of the checks before it.
"""

import errno
import os
import select
import sys
import time
from collections.abc import Callable

EXIT_FAULT = 2
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: it was saved, try again
EXIT_RANK_LOST = 76
EXIT_BAD_NODES = 77
_STDOUT = 1


class SumZeroError(Exception):
    """A fault the user can mend. The message says where it is, what is wrong and what to do."""

    exit_code = EXIT_FAULT


class ConfigError(SumZeroError):
    """A setting is misspelt, of the wrong type, out of range, or contradicts another.

    `problems` holds one message a fault, so that all of them are shown at once.
    """

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(SumZeroError):
    """Input data cannot be used: a file is missing or empty, no row is usable, no template."""


class RunError(SumZeroError):
    """The run cannot go on: an earlier stage is missing, results do not match, the disk is full."""


class RankLost(RunError):
    """A rank of the launch died or hangs. The message names it and the step."""

    exit_code = EXIT_RANK_LOST


class BadNodes(RunError):
    """Nodes of the launch are not fit. The message names each, with what is wrong there."""

    exit_code = EXIT_BAD_NODES

    def __init__(self, message: str, nodes: list[str]) -> None:
        self.nodes = nodes
        super().__init__(message)


def guarded(main: Callable[[], int], *, is_main_rank: bool = True) -> int:
    """Runs a command and returns its exit code; a user's fault becomes one line and its code.

    On a launch of several ranks all meet the same fault: the others leave it to rank 0 to say it,
    and speak only if the launcher has not ended them after ten seconds.
    """
    code = EXIT_FAULT
    try:
        ended = main()
        sys.stdout.flush()
        return ended
    except ConfigError as error:
        lines = error.problems
    except SumZeroError as error:
        lines, code = [str(error)], error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        if not _reader_has_gone():  # it was another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
        return 141
    except Exception as error:
        reason = machine_fault(error)
        if reason is None and lost_connection(error):
            reason = "another rank ended; its own message says why"
        if reason is None:
            raise
        lines = [reason]
    if not is_main_rank:
        time.sleep(10)
    for line in lines:
        print(f"sumzero: {line}", file=sys.stderr, flush=True)
    return code


def _reader_has_gone() -> bool:
    """Whether nobody reads our output any more, as after `| head`."""
    output = select.poll()
    output.register(_STDOUT, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def lost_connection(error: Exception) -> bool:
    """Whether gloo says so: that another rank closed or reset it, or is gone."""
    is_of_links = isinstance(error, RuntimeError)
    return is_of_links and any(sign in str(error) for sign in ("by peer", "Broken pipe"))


def machine_fault(error: Exception) -> str | None:
    """One line where the disk is full or a path may not be written, else None.

    safetensors and torch report a full disk in exceptions of their own, by its text only.
    """
    if isinstance(error, OSError) and error.errno in _MACHINE_FAULTS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{os.strerror(error.errno)}; {_MACHINE_FAULTS[error.errno]}"
    if any(sign in str(error) for sign in _FULL_DISK) and "Reader" not in str(error):
        return f"{os.strerror(errno.ENOSPC)}; {_MACHINE_FAULTS[errno.ENOSPC]}"
    return None


_FULL_DISK = ("No space left on device", "PytorchStreamWriter", "inline_container.cc")
_NOTHING_LOST = "nothing half-written was kept, run the command again after making room"
_MACHINE_FAULTS = {
    errno.ENOSPC: _NOTHING_LOST,
    errno.EDQUOT: _NOTHING_LOST,
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG), "choose another path"
    ),
    errno.EROFS: "choose another folder with runs=PATH",
    errno.EACCES: "choose another folder with runs=PATH, or change its permissions",
    errno.EPERM: "choose another folder with runs=PATH, or change its permissions",
}
