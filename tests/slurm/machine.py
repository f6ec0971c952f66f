"""A machine of a test cluster: namespaces of its own, held by a process 1.

A machine has its own network, host name, mounts and process numbers. Its process 1 waits for the
end of its stdin, a pipe whose only writer is this process. To close it is to pull the plug: the
kernel kills all of a PID namespace together with its process 1, and unmounts and unlinks what only
its namespaces held. The same happens when this process dies, however it dies. A machine that is
started within another one's namespaces goes down with it.
"""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

PROCESS_1 = Path(__file__).with_name("process_1.sh")


class Machine:
    """Made running; `set_up` is shell script that process 1 runs first, in the new namespaces."""

    def __init__(self, set_up, *, name, log, within=None):
        """Messages go to the file `log`; `within` is the machine that this one goes down with."""
        enter = within.enter(["--pid"]) if within else []
        with log.open("ab") as messages:
            self._holder = subprocess.Popen(
                [
                    *(*enter, "unshare", "--net", "--uts", "--mount", "--pid", "--fork"),
                    *("bash", str(PROCESS_1), name, set_up),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                start_new_session=True,  # the terminal's Ctrl-C is for the tests
            )
        said = self._holder.stdout.readline()
        if not said:
            self.power_off()
            raise RuntimeError(f"{name} did not start: {log.read_text(errors='replace')}")
        self.pid = int(said)

    @property
    def is_up(self):
        return self._holder.poll() is None

    def power_off(self):
        """Kills every process of the machine; they are gone when it returns. Twice is fine."""
        self._holder.stdin.close()
        self._holder.stdout.close()
        # Process 1 is reaped after all others of its namespace; only then does its parent end.
        self._holder.wait(timeout=30)

    def enter(self, more=()):
        """The words before a command that make it run in the namespaces, but for that of PIDs."""
        spaces = ["--net", "--uts", "--mount", *more]
        return ["nsenter", f"--target={self.pid}", *spaces, "--"]

    def command(self, argv, cwd="/", daemon=False):
        """The command that runs another one on this machine.

        A daemon gets a process number of the machine, and goes down with it; what you start is
        only its parent, which ends when it ends. What is no daemon keeps its number outside, so
        that it gets the signals to what you started.
        """
        # `nsenter --wd` would leave a working directory in the old mount namespace: a rename from a
        # relative path to an absolute one would then be across devices.
        change = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd)]
        return [*self.enter(["--pid"] if daemon else []), *change, *(str(word) for word in argv)]

    def processes(self):
        """Command lines by process number, numbered as this process sees them."""
        if not self.is_up:
            return {}
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                if os.readlink(process / "ns" / "pid") == namespace:
                    words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    found[int(process.name)] = b" ".join(words).decode(errors="replace")
        return {number: line for number, line in found.items() if line}  # a zombie has none
