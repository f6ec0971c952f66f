# shellcheck shell=bash disable=SC1091,SC2034 # read by the others, not run
# What differs from site to site, in one place. Edit it: it is yours.

# The environment: your modules, or a virtual environment; by default the one `make install` built.
# module load cuda/12.8
[ ! -f .venv/bin/activate ] || . .venv/bin/activate

# A container: the words that stand before every command, for instance
# run_in=(apptainer exec --nv --bind /tmp /images/sumzero.sif)
# It must have the node's /tmp, Slurm's commands (squeue, scontrol) with their configuration and munge's
# socket, and hand signals on to what it runs.
run_in=()

# The network between the nodes, where the first interface found is the wrong one.
# export GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0

# Where jobs have room of their own on a node: compiled kernels, temporary files.
# It must be there on every node.
# export TMPDIR=/scratch

export PYTHONSAFEPATH=1 # the working directory is not searched for modules
export TOKENIZERS_PARALLELISM=true
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
