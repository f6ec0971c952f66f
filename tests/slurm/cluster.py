"""A real Slurm cluster on one Linux machine: slurmctld, munged, and a slurmd for each node.

Each node is a machine of namespaces (machine.py) with its own address, host name, /dev/shm and
/mnt; all other files are shared, as on a cluster with a shared file system. The controller `ctl` is
the login node too. Nothing listens outside these namespaces, and nothing leads out of them.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .job_record import ENDED, job_records
from .machine import Machine
from .programs import PLACES, find, write_wrappers
from .slurm_conf import CONTROLLER, CONTROLLER_ADDRESS, address, gres_conf, hosts, slurm_conf

# Beside another worker of pytest-xdist's everything may take twice as long.
PATIENCE = 2 if "PYTEST_XDIST_WORKER" in os.environ else 1
LONGEST_STATE = 60  # the sockets of munge and slurmstepd below it must fit into 107 bytes


class Cluster:
    """`with Cluster(folder) as cluster:` it runs; what it leaves behind is that folder only.

    The nodes are called node1, node2 and so on. Every wait has a deadline, after which an
    AssertionError tells the state of things.
    """

    def __init__(self, state, *, nodes=2, cpus=4, memory=8000, gpus=0, grace=5, extra=()):
        """A node's CPUs, MB of memory and GPUs are pretended; `extra` are lines of slurm.conf.

        `grace` is partition main's GraceTime in seconds.
        """
        self.state = Path(state).resolve()
        if len(str(self.state)) > LONGEST_STATE:
            raise ValueError(f"longer than {LONGEST_STATE} characters: {self.state}")
        self.nodes = tuple(f"node{i}" for i in range(1, nodes + 1))
        self._settings = dict(cpus=cpus, memory=memory, gpus=gpus, grace=grace, extra=extra)
        self._grace = grace
        self._machines, self._daemons = {}, {}
        self._settled_jobs = 0  # the number of the last job before `settle`

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Starts from nothing: the jobs and logs of a former start are gone."""
        assert not self._machines, "the cluster runs already"
        try:
            self._write_files()
            self._start_controller()
            for node in self.nodes:
                self._power_on(node)
            self.until(self._controller_answers, 15, "slurmctld answers")
            for node in self.nodes:
                self.start_slurmd(node)
            self.until(self._all_idle, 15, "all nodes are idle")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """Ends every process of the cluster; none is left when it returns. Twice is fine."""
        shutil.rmtree(self.state / "bin", ignore_errors=True)
        # The controller is the first: the others are within its namespaces and go with it.
        for machine in self._machines.values():
            machine.power_off()
        for daemon in self._daemons.values():
            daemon.wait(timeout=10)
        self._machines.clear()
        self._daemons.clear()
        self._settled_jobs, self._grace = 0, self._settings["grace"]

    def _write_files(self):
        for name in ("etc", "run", "log", "ctld", "spool", "dev", "bin"):
            shutil.rmtree(self.state / name, ignore_errors=True)
            (self.state / name).mkdir(parents=True)
        etc = self.state / "etc"
        (etc / "hosts").write_text(hosts(self.nodes))
        (etc / "slurm.conf").write_text(slurm_conf(self.state, self.nodes, **self._settings))
        if gpus := self._settings["gpus"]:
            (etc / "gres.conf").write_text(gres_conf(self.state, gpus))
        key = etc / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))

    def _start_controller(self):
        etc, run, log = (self.state / name for name in ("etc", "run", "log"))
        machine = self._machines[CONTROLLER] = Machine(
            f"mount --bind {etc}/hosts /etc/hosts;"
            # The machines use Slurm's own commands; only processes outside see the wrappers.
            f"mount -t tmpfs none {self.state}/bin;"
            f"ip link add br0 type bridge; ip addr add {CONTROLLER_ADDRESS}/24 dev br0;"
            "ip link set br0 up",
            name=CONTROLLER,
            log=log / f"{CONTROLLER}.out",
        )
        write_wrappers(self.state / "bin", machine, etc / "slurm.conf")
        self._daemon(
            *(CONTROLLER, "munged", "--foreground", "--force", f"--key-file={etc}/munge.key"),
            *(f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid"),
            *(f"--log-file={log}/munged.log", f"--seed-file={run}/munge.seed"),
        )
        self.until((run / "munge.sock").exists, 5, "munged listens")
        self._daemon(CONTROLLER, "slurmctld", "-D", "-i", "-f", etc / "slurm.conf")

    def _controller_answers(self):
        if self._daemons[CONTROLLER, "slurmctld"].poll() is not None:
            said = (self.state / "log" / f"slurmctld-{CONTROLLER}.out").read_text(errors="replace")
            raise RuntimeError(f"slurmctld ended: {said}")
        return "UP" in self.run(["scontrol", "ping"], check=False).stdout

    def _power_on(self, node):
        machine = self._machines[node] = Machine(
            "mount -t proc none /proc; mount -t tmpfs -o mode=1777 none /dev/shm;"
            "mount -t tmpfs -o mode=1777 none /mnt",
            name=node,
            log=self.state / "log" / f"{node}.out",
            within=self._machines[CONTROLLER],
        )
        # The cable of a crashed node goes some time after its last process, so it is removed here.
        # The card's address stays the same over a crash, for the others remember it.
        link, card = f"veth-{node}", f"02:00:0a:d5:00:{int(node.removeprefix('node')):02x}"
        plug = (
            f"ip link del {link} 2>/dev/null;"
            f"ip link add {link} type veth peer name eth0 address {card} netns {machine.pid} &&"
            f"ip link set {link} master br0 up"
        )
        self.run(["sh", "-c", plug])
        configure = f"ip addr add {address(node)}/24 dev eth0 && ip link set eth0 up"
        self.run(["sh", "-c", configure], node=node)

    def _daemon(self, on, program, *arguments):
        with (self.state / "log" / f"{program}-{on}.out").open("ab") as out:
            self._daemons[on, program] = subprocess.Popen(
                self._machines[on].command([find(program), *arguments], daemon=True),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _slurmd_runs(self, node):
        daemon = self._daemons.get((node, "slurmd"))
        return daemon is not None and daemon.poll() is None

    def crash(self, node):
        """Pulls a node's plug: SIGKILL to all of its processes, and no word to the others."""
        self._machines[node].power_off()
        self._daemons.pop((node, "slurmd")).wait(timeout=10)

    def boot(self, node):
        """Switches a node on that crashed; Slurm learns that it is a new boot."""
        self._power_on(node)
        self.start_slurmd(node, booted=True)

    def kill_slurmd(self, node):
        """SIGKILL to the daemon of a node only: the processes of its jobs live on."""
        parent = self._daemons[node, "slurmd"]
        (slurmd,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        os.kill(int(slurmd), signal.SIGKILL)
        parent.wait(timeout=10)

    def start_slurmd(self, node, *, booted=False):
        """Starts the daemon of a node where it does not run; a moment later Slurm knows."""
        assert not self._slurmd_runs(node), f"slurmd runs on {node}"
        conf = self.state / "etc" / "slurm.conf"
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", conf, *(["-b"] if booted else []))

    def processes(self, node):
        """Command lines on a node by process number, by which you can signal them."""
        return self._machines[node].processes()

    def node_states(self):
        """What Slurm holds of each node: "idle", "mixed", "down*" (it does not answer), ..."""
        said = self.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"], check=False).stdout
        return dict(line.split() for line in said.splitlines())

    def _all_idle(self):
        return self.node_states() == dict.fromkeys(self.nodes, "idle")

    @property
    def environment(self):
        """With it, a process outside the cluster finds `sbatch` and the others on its PATH."""
        ours = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_")
        outside = {name: x for name, x in os.environ.items() if not name.startswith(ours)}
        path = f"{self.state}/bin{os.pathsep}{PLACES}"
        return {**outside, "PATH": path, "SLURM_CONF": f"{self.state}/etc/slurm.conf"}

    def run(self, argv, *, node=CONTROLLER, cwd="/", env=None, stdin="", check=True, timeout=30):
        """Runs a command on the login node, or a node; where it fails its output is in the error.

        `stdin` is text; without `env` it has `environment`.
        """
        done = subprocess.run(
            self._machines[node].command(argv, cwd, daemon=node != CONTROLLER),
            env=self.environment if env is None else env,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout * PATIENCE,
            check=False,
        )
        if check and done.returncode:
            command = shlex.join(str(word) for word in argv)
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def submit(self, script, *options, cwd, env=None):
        """The number of the job that `sbatch` makes of a script's text; its log is in `cwd`."""
        argv = ["sbatch", "--parsable", *options]
        return int(self.run(argv, cwd=cwd, env=env, stdin=script).stdout)

    def job(self, job):
        """What Slurm holds of a job, or of a task of an array ("5_1"): fields by name."""
        (record,) = job_records(self.run(["scontrol", "show", "job", str(job)]).stdout)
        return record

    def wait(self, job, states, *, restarts=0, timeout=60):
        """The record of a job that is in one of the states, and was requeued so many times.

        Fails at once where it has ended in another way.
        """

        def reached():
            record = self.job(job)
            state, again = record["JobState"], int(record["Restarts"])
            if state in states and again >= restarts:
                return record
            assert state not in ENDED, f"job {job}: {state}, restarts {again}\n{self.evidence()}"
            return None

        return self.until(reached, timeout, f"job {job} is {' or '.join(sorted(states))}")

    def until(self, condition, timeout, what):
        """Asks until the answer is a true one, and returns it; fails after `timeout` seconds."""
        timeout *= PATIENCE
        deadline = time.monotonic() + timeout
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout} s: {what}\n{self.evidence()}")
            time.sleep(0.05)
        return answer

    def set_grace(self, seconds):
        """Changes the time that jobs of partition main have left when preempted."""
        self.run(["scontrol", "update", "PartitionName=main", f"GraceTime={seconds}"])
        self._grace = seconds

    def settle(self, timeout=90):
        """Brings the cluster back to where it started: no jobs, and all nodes up and idle."""
        if self._grace != self._settings["grace"]:
            self.set_grace(self._settings["grace"])
        self.run(["scancel", "--user=root"], check=False)
        for node in self.nodes:
            if not self._machines[node].is_up:
                self.boot(node)
            elif not self._slurmd_runs(node):
                self.start_slurmd(node)
        self.until(self._settled, timeout, "no jobs, and all nodes idle")
        self._settled_jobs = max((int(job["JobId"]) for job in self._jobs()), default=0)

    def _settled(self):
        for node, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                self.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)
        return self._all_idle() and not self.run(["squeue", "-h"]).stdout

    def _jobs(self):
        return job_records(self.run(["scontrol", "show", "jobs"], check=False).stdout)

    def evidence(self, lines=40):
        """The nodes, the jobs since `settle` with the ends of their logs, and slurmctld's log."""
        asked = (CONTROLLER, "slurmctld") in self._daemons
        parts = [f"nodes: {self.node_states()}"] if asked else []
        for job in self._jobs() if asked else []:
            if int(job["JobId"]) > self._settled_jobs:
                facts = ("JobId", "JobState", "Reason", "ExitCode", "Restarts", "NodeList")
                parts.append(" ".join(f"{name}={job.get(name)}" for name in facts))
                parts.append(_tail(job.get("StdOut"), lines))
        return "\n".join([*parts, _tail(self.state / "log" / "slurmctld.log", lines)])


def _tail(file, lines):
    """The last lines of a file, under its name; srun's jobs have none."""
    try:
        text = Path(file or "").read_text(errors="replace")
    except OSError:
        return f"--- {file}: cannot be read"
    return "\n".join([f"--- {file}", *text.splitlines()[-lines:]])
