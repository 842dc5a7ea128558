#!/usr/bin/env bash
# Two nodes on one machine: two network namespaces joined by a veth pair, a torchrun in each, one run. Needs root and iproute2.
#
#   scripts/launch_two_nodes.sh run_dir=/tmp/two trainer.max_steps=50 ...      overrides of `python -m frtrain`
#   KILL_NODE_AFTER=20 scripts/launch_two_nodes.sh run_dir=/tmp/two ...        SIGKILL to all of node 1 after 20 s
#
# The exit status is node 0's. The output of node N is in front of each line. PROCESSES_PER_NODE=1, PYTHON=python, PORT=29400.
set -euo pipefail

python=${PYTHON:-python}
port=${PORT:-29400}
processes=${PROCESSES_PER_NODE:-1}
network=10.77.29
tag=frt$$
namespaces=("${tag}a" "${tag}b")
nodes=()

clean_up() {
    for namespace in "${namespaces[@]}"; do
        # Whoever is left in a namespace would keep it alive.
        for pid in $(ip netns pids "$namespace" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
        ip netns delete "$namespace" 2>/dev/null || true # the veth pair goes with it
        rm -rf "/etc/netns/$namespace"
    done
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

for namespace in "${namespaces[@]}"; do
    mkdir -p "/etc/netns/$namespace" # seen as /etc within: nobody there answers questions about names
    printf '127.0.0.1 localhost\n%s.1 node0\n%s.2 node1\n' "$network" "$network" >"/etc/netns/$namespace/hosts"
    printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' >"/etc/netns/$namespace/resolv.conf"
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
done
ip -n "${namespaces[0]}" link add node0 type veth peer name node1 netns "${namespaces[1]}"
for node in 0 1; do
    ip -n "${namespaces[$node]}" address add "$network.$((node + 1))/24" dev "node$node"
    ip -n "${namespaces[$node]}" link set "node$node" up
done

# --local-addr: what the other node finds this one by. By default that is the host name, which both have in common here.
# is_host: node 0 holds the store in which all meet. By default that is the one whose host name resolves to the endpoint.
# *_SOCKET_IFNAME: the interface that gloo and NCCL connect over; by default gloo takes the one of the host name.
for node in 0 1; do
    ip netns exec "${namespaces[$node]}" env \
        GLOO_SOCKET_IFNAME="node$node" NCCL_SOCKET_IFNAME="node$node" \
        "$python" -m torch.distributed.run \
        --nnodes=2 --nproc-per-node="$processes" \
        --rdzv-backend=c10d --rdzv-endpoint="$network.1:$port" --rdzv-id="$tag" \
        --rdzv-conf="is_host=$((1 - node))" --local-addr="$network.$((node + 1))" \
        -m frtrain "$@" > >(sed -u "s/^/node $node: /") 2>&1 &
    nodes+=($!)
done

if [[ -n ${KILL_NODE_AFTER:-} ]]; then
    sleep "$KILL_NODE_AFTER"
    echo "node 1 is killed"
    ip netns pids "${namespaces[1]}" | xargs -r kill -KILL
fi
status=0
wait "${nodes[0]}" || status=$?
wait "${nodes[1]}" || true
sleep 0.2 # the last lines of both
echo "node 0: exit status $status"
exit "$status"
