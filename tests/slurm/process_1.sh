# The first process of a test cluster's machine: process_1.sh NAME SET_UP, in its new namespaces.
set -eu
# `read` is a builtin, so /proc/self is this shell. As long as /proc is not the machine's own, the
# number there is the one by which the world outside knows process 1.
read -r pid _ </proc/self/stat
hostname "$1"
ip link set lo up
eval "$2"
echo "$pid"
# Until the plug is pulled. Meanwhile bash reaps orphans, as a process 1 must.
read -r _ || :
