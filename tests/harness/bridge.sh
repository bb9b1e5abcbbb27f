# The pod network's bridge. The cluster's pods hang on it, and its address is this machine as pods see it: the
# API server, CoreDNS, Kafka, ElasticMQ and moto listen there. Whoever comes first makes it; whoever leaves last takes it away.
# shellcheck shell=bash disable=SC2034

BRIDGE=presenceroute0
BRIDGE_ADDRESS=10.244.0.1
POD_CIDR=10.244.0.0/24

bridge_up() {
    local other
    other=$(ip -o -4 address show to "$POD_CIDR" | awk -v ours="$BRIDGE" '$2 != ours { print $2; exit }')
    [ -z "$other" ] || fail "$POD_CIDR is in use on $other, and the harness needs it for its pods: set KUBECONFIG to use the cluster that is there, or take it down"
    ip link show "$BRIDGE" > /dev/null 2>&1 || ip link add "$BRIDGE" type bridge
    ip address replace "$BRIDGE_ADDRESS/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
}

bridge_down_unless_used() {
    local user
    for user in "$CLUSTER_STATE/kube-apiserver" "$KAFKA_STATE/broker-1" "$SQS_STATE/elasticmq" "$MOTO_STATE/moto"; do
        if STATE=${user%/*} process_pid "${user##*/}" > /dev/null; then return 0; fi
    done
    ip link delete "$BRIDGE" 2> /dev/null || true
}
