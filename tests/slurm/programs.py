"""The programs that a test cluster is made of: which are missing, and the way in from outside."""

import os
import shlex
import shutil
import subprocess
import sys

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "salloc", "squeue", "sinfo", "scontrol", "scancel", "sacct", "sstat")
TOOLS = ("unshare", "nsenter", "ip", "bash")
# Debian keeps daemons where a user's PATH may not lead.
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
# What a machine needs of the kernel, and the controller's network.
PROBE = "unshare --net --uts --mount --pid --fork ip link add br0 type bridge"


def find(program):
    """The path of a program, or None."""
    return shutil.which(program, path=PLACES)


def why_not():
    """What hinders a cluster on this machine, or None."""
    if sys.platform != "linux":
        return "a Slurm cluster needs Linux"
    if os.geteuid() != 0:
        return "a Slurm cluster of namespaces needs root"
    if missing := [name for name in (*DAEMONS, "sbatch", *TOOLS) if not find(name)]:
        install = "apt-get install slurm-wlm munge iproute2"
        return f"a Slurm cluster needs {', '.join(missing)}: {install}"
    environment = {**os.environ, "PATH": PLACES}
    tried = subprocess.run(
        PROBE.split(), env=environment, capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return f"no namespaces are permitted here: `{PROBE}`: {tried.stderr.strip()}"
    return None


def write_wrappers(folder, machine, slurm_conf):
    """Commands by the names of Slurm's own, which run those on a machine, from outside."""
    for client in filter(find, CLIENTS):
        # The shell puts in where it is.
        *enter, _, real = machine.command([find(client)], cwd="")
        wrapper = folder / client
        wrapper.write_text(
            f"#!/bin/sh\nexport SLURM_CONF={shlex.quote(str(slurm_conf))}\n"
            f'exec {shlex.join(enter)} "$PWD" {shlex.quote(real)} "$@"\n'
        )
        wrapper.chmod(0o755)
