# Which versions the harness runs and where it keeps them. Sourced by every script here.
# A version is part of its folder's name, so that a new version is built beside the old one
# and a half-made folder never carries the final name.
# shellcheck shell=bash disable=SC2034

KUBERNETES_VERSION=v1.34.4
ETCD_VERSION=v3.6.6
COREDNS_VERSION=v1.13.1
HELM_VERSION=v3.19.2
HELM_UNITTEST_VERSION=v1.0.3
KAFKA_VERSION=4.1.1
LOG4J_VERSION=2.24.3
ELASTICMQ_VERSION=1.7.1
MOTO_VERSION=5.2.5
AWSCLI_VERSION=1.46.2
CFN_LINT_VERSION=1.58.0
KEDA_VERSION=v2.18.1
ACTIONLINT_VERSION=v1.7.12
PROMETHEUS_OPERATOR_VERSION=v0.83.0
REGISTRY_VERSION=v3.0.0
KUBECONFORM_VERSION=v0.7.0
KREW_VERSION=v0.4.4

HARNESS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${PRESENCEROUTE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/presenceroute}

KUBERNETES_BIN=$CACHE/kubernetes-$KUBERNETES_VERSION
ETCD_BIN=$CACHE/etcd-$ETCD_VERSION
HELM_BIN=$CACHE/helm-$HELM_VERSION
HELM_UNITTEST_BIN=$CACHE/helm-unittest-$HELM_UNITTEST_VERSION
KAFKA_LIB=$CACHE/kafka-$KAFKA_VERSION
ELASTICMQ_LIB=$CACHE/elasticmq-$ELASTICMQ_VERSION
MOTO_LIB=$CACHE/moto-$MOTO_VERSION
AWS_TOOLS=$CACHE/aws-tools-cli-$AWSCLI_VERSION-cfn-lint-$CFN_LINT_VERSION
KEDA_DEFINITIONS=$CACHE/keda-definitions-$KEDA_VERSION
ACTIONLINT_BIN=$CACHE/actionlint-$ACTIONLINT_VERSION
REGISTRY_BIN=$CACHE/registry-$REGISTRY_VERSION
KUBECONFORM_BIN=$CACHE/kubeconform-$KUBECONFORM_VERSION
KREW_BIN=$CACHE/krew-$KREW_VERSION
MONITORING_DEFINITIONS=$CACHE/prometheus-operator-definitions-$PROMETHEUS_OPERATOR_VERSION
# Built from a source file of ours: its checksum stands in the name too.
COREDNS_BIN=$CACHE/coredns-$COREDNS_VERSION-$(cksum < "$HARNESS/coredns/main.go" | cut -d ' ' -f 1)
HARNESS_IMAGES=$CACHE/images-$(cat "$HARNESS/images/pause.c" "$HARNESS/tools" "$HARNESS/../../deploy/image-archive" | cksum | cut -d ' ' -f 1)
PAUSE_IMAGE=presenceroute/pause:harness
BUSYBOX_IMAGE=presenceroute/busybox:harness

# What `up` leaves behind for `down`, and nothing else. One cluster a machine, and one Kafka, one queue server and one
# moto, unless others are given ports of their own.
CLUSTER_STATE=$CACHE/state/cluster
KAFKA_STATE=$CACHE/state/kafka${PRESENCEROUTE_KAFKA_PORT:+-$PRESENCEROUTE_KAFKA_PORT}
SQS_STATE=$CACHE/state/sqs${PRESENCEROUTE_SQS_PORT:+-$PRESENCEROUTE_SQS_PORT}
MOTO_STATE=$CACHE/state/moto${PRESENCEROUTE_MOTO_PORT:+-$PRESENCEROUTE_MOTO_PORT}

# Half of what is needed lies in /usr/sbin, which is not on everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# fail WHAT [LOG]: the reason, the end of the log that tells more, and out.
fail() {
    say "error: $1"
    if [ -n "${2:-}" ] && [ -s "$2" ]; then
        printf -- '--- last lines of %s\n' "$2" >&2
        tail -n 25 "$2" >&2
    fi
    exit 1
}
