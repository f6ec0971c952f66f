# shellcheck shell=bash # read by the others, not run
# What all jobs have in common: they stop at the first fault, and their logs tell how they ended.
set -eo pipefail
# shellcheck source=slurm/env.sh
. "${SUMZERO_SLURM:-slurm}/env.sh"
set -u # not before: modules and conda do not bear it

# The last line of every log: `sumzero status` reads it where Slurm has forgotten the job.
ended() {
    echo "sumzero: job $SLURM_JOB_ID ended with exit code $1"
}
trap 'ended $?' EXIT

# Runs what goes on where it was when it is started again. Where the job's script is signalled (USR1)
# since its time limit is near, the job goes back into the queue.
resumable() {
    local code
    # shellcheck disable=SC2016 # expanded when it happens
    trap '[ "${SLURM_RESTART_COUNT:-0}" -ge 50 ] || scontrol requeue "$SLURM_JOB_ID"' USR1
    "$@" &
    while true; do # a signal ends `wait`, but not what it waits for
        code=0
        wait $! || code=$?
        kill -0 $! 2> /dev/null || return "$code"
    done
}
