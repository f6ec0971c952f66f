# shellcheck shell=bash # read by the others, not run
# What all jobs have in common: they stop at the first fault, and their logs tell how they ended.
set -eo pipefail

# The last line of every log: `sumzero status` reads it where Slurm has forgotten the job.
ended() {
    echo "sumzero: job ${SLURM_JOB_ID:-} ended with exit code $1"
}
trap 'ended $?' EXIT
trap 'exit 143' TERM # cancelled, out of time: else the code told would be that of the last command

# shellcheck source=slurm/env.sh
. "${SUMZERO_SLURM:-slurm}/env.sh"
set -u # not before: modules and conda do not bear it

# Runs a command beside the script, so that traps are heeded at once, and returns its exit code.
attended() {
    local code
    "$@" &
    child=$!
    while true; do # a signal ends `wait`, but not what it waits for
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2> /dev/null || return "$code"
    done
}

# The job back into the queue, for what goes on where it was; a controller may be away for a moment.
again() {
    [ "${SLURM_RESTART_COUNT:-0}" -lt 50 ] || return 0
    for _ in 1 2 3 4 5; do
        scontrol requeue "$SLURM_JOB_ID" && return
        sleep 5
    done
    return 0 # what is at work may still end in time
}
