#!/usr/bin/env bash
# Two machines on one: network namespaces that see each other through a cable of their own. Needs Linux and root.
#   scripts/two_machines.sh both swift sft --model_id_or_path MODEL --dataset DATA    both run it, then all is taken down
#   scripts/two_machines.sh up | on 0 COMMAND | on 1 COMMAND | off 1 | down           the same step by step
# HOSTS names the pair, so that several can be up.
set -euo pipefail
hosts="${HOSTS:-swift}"

up() {
    local k
    for k in 0 1; do ip netns add "$hosts-$k" && ip -n "$hosts-$k" link set lo up; done
    ip -n "$hosts-0" link add eth0 type veth peer name eth0 netns "$hosts-1"
    for k in 0 1; do ip -n "$hosts-$k" address add "10.77.0.$((k + 1))/24" dev eth0 && ip -n "$hosts-$k" link set eth0 up; done
}
on() { # run a command on one of them, told who is who
    local k=$1
    shift
    exec ip netns exec "$hosts-$k" env NNODES=2 NODE_RANK="$k" MASTER_ADDR=10.77.0.1 "$@"
}
off() { # as when somebody pulls the plug
    ip netns pids "$hosts-$1" | xargs -r kill -KILL
}
down() {
    local k
    for k in 0 1; do off "$k" 2>/dev/null || true; ip netns delete "$hosts-$k" 2>/dev/null || true; done
}
both() {
    trap down EXIT
    up
    (on 1 "$@") &
    local other=$! code=0
    (on 0 "$@") || code=$?
    wait "$other" || code=$((code ? code : $?))
    return "$code"
}

case "${1:-}" in
    both | up | on | off | down) "$@" ;;
    *) sed -n '2,5s/^# //p' "$0" && exit 2 ;;
esac
