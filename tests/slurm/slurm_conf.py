"""The files that a test cluster's Slurm reads: slurm.conf, gres.conf and hosts."""

import os
import stat

CONTROLLER = "ctl"
CONTROLLER_ADDRESS = "10.213.0.254"


def address(node):
    """Of a node by its name: node1 is 10.213.0.1. The network is seen in the cluster only."""
    return f"10.213.0.{node.removeprefix('node')}"


def hosts(nodes):
    """Text of /etc/hosts on every machine of the cluster."""
    lines = ["127.0.0.1 localhost", f"{CONTROLLER_ADDRESS} {CONTROLLER}"]
    for node in nodes:
        # The mapped form too: torch's c10d looks peers up by it, else it warns at each connection.
        lines += [f"{address(node)} {node}", f"::ffff:{address(node)} {node}"]
    return "\n".join(lines) + "\n"


def gres_conf(state, gpus):
    """Text of gres.conf; makes the devices: like /dev/null, they are there to be counted."""
    files = [state / "dev" / f"gpu{i}" for i in range(gpus)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        os.mknod(file, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return "AutoDetect=off\n" + "".join(f"Name=gpu File={file}\n" for file in files)


def slurm_conf(state, nodes, *, cpus, memory, gpus, grace, extra):
    """Text of slurm.conf for a cluster whose files are in the folder `state`.

    CPUs, MB of memory and GPUs a node are what Slurm is told, not what the machine has; `grace` is
    in seconds. A partition `high` preempts `main`, whose jobs are requeued. A failure is noticed
    after 10 to 30 s instead of minutes.
    """
    devices = f" Gres=gpu:{gpus}" if gpus else ""
    machines = "\n".join(
        f"NodeName={node} NodeHostname={node} NodeAddr={address(node)}"
        f" CPUs={cpus} RealMemory={memory}{devices} State=UNKNOWN"
        for node in nodes
    )
    return f"""\
ClusterName=test
SlurmctldHost={CONTROLLER}({CONTROLLER_ADDRESS})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also what a requeued job waits before it starts again; 120 s by default.
AuthInfo=socket={state}/run/munge.sock,cred_expire=5
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/spool/%n
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmdPidFile={state}/run/slurmd-%n.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdLogFile={state}/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
{"GresTypes=gpu" if gpus else ""}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=5,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MessageTimeout=10
BatchStartTimeout=10
MinJobAge=3600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{"".join(line + chr(10) for line in extra)}
{machines}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
