"""sshd on the nodes of a test cluster: one that a user without Slurm would have.

Keys and settings are made on the spot, in the cluster's folder. Nothing of this machine's own ssh
is read or written: neither the user's keys and known hosts, nor /etc/ssh, nor the log.
"""

import os
import shlex
import subprocess
from contextlib import contextmanager

from .programs import find
from .slurm_conf import address

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "pdsh")


def why_no_ssh():
    """What hinders pdsh over ssh on this machine, or None."""
    if missing := [name for name in PROGRAMS if not find(name)]:
        return f"needs {', '.join(missing)}: apt-get install openssh-server pdsh"
    return None


@contextmanager
def listening(cluster):
    """While open, `ssh NODE` works without a password; gives the folder with that `ssh`."""
    folder = cluster.state / "ssh"
    folder.mkdir()
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    _write_settings(folder)
    started = []
    try:
        for node in cluster.nodes:
            _start(cluster, node, folder)
            started.append(node)
        yield folder / "bin"
    finally:
        for node in started:
            cluster.run(["sh", "-c", f"kill $(cat {folder}/{node}.pid)"], node=node)


def _write_settings(folder):
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/user.pub\n"
        "PasswordAuthentication no\n"
        "UsePAM no\n"
        "StrictModes no\n"  # the folder is in /tmp, where anybody may make others
    )
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user\n"
        "IdentitiesOnly yes\n"
        f"UserKnownHostsFile {folder}/known_hosts\n"
        "GlobalKnownHostsFile none\n"
        "StrictHostKeyChecking yes\n"
    )
    (folder / "known_hosts").write_text("* " + (folder / "host.pub").read_text())
    # DeepSpeed and pdsh take the `ssh` that is first on the PATH.
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {find("ssh")} -F {folder}/ssh_config "$@"\n')
    ssh.chmod(0o755)


def _start(cluster, node, folder):
    pid = folder / f"{node}.pid"
    sshd = [find("sshd"), "-f", folder / "sshd_config", "-E", folder / f"{node}.log"]
    sshd += ["-o", f"ListenAddress={address(node)}", "-o", f"PidFile={pid}"]
    # It wants an empty folder there, which is not made on this machine but in its own mounts.
    empty = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd"
    command = f"{empty} && exec {shlex.join(os.fspath(word) for word in sshd)}"
    cluster.run(["unshare", "--mount", "sh", "-c", command], node=node)
    cluster.until(pid.exists, 10, f"sshd listens on {node}")
