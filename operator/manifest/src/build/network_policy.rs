//! The NetworkPolicy of the relay pods, when `spec.relay.networkPolicy` asks for one.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use presenceroute_core::relay_config::{SourceConfig, SqsConfig};
use url::Url;

use super::{ADMIN_PORT, EVENTS_PORT, TLS_EVENTS_PORT, metadata, relay_name, selector};
use crate::validate::Model;

/// The labels that the chart gives the operator's pods.
const OPERATOR_LABELS: [(&str, &str); 2] =
    [("app.kubernetes.io/name", "presenceroute"), ("app.kubernetes.io/component", "operator")];

/// The label that Kubernetes gives every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// The ports of DNS as pods have them: a policy sees a connection to a Service as one to the pod behind it, and OpenShift's
/// DNS pods listen on 5353.
const DNS_PORTS: [i32; 2] = [53, 5353];

/// Where the EKS Pod Identity Agent listens on each node.
const POD_IDENTITY_AGENT: [&str; 2] = ["169.254.170.23/32", "fd00:ec2::23/128"];

/// Builds it: events from the given peers, the admin port from the operator's pods in their namespace and the given
/// scrapers, out to DNS and to the ports of the brokers, of their token endpoint, of the queue and of the collector. They are named by
/// host, which a NetworkPolicy cannot select, hence by port alone, each once. Further rules out are the spec's own.
pub(super) fn build(model: &Model, operator_namespace: &str) -> Option<NetworkPolicy> {
    let wanted = model.relay.network_policy.as_ref()?;
    let operator = NetworkPolicyPeer {
        // Anybody may give pods of a namespace of their own these labels.
        namespace_selector: Some(LabelSelector {
            match_labels: Some([(NAMESPACE_LABEL.into(), operator_namespace.to_owned())].into()),
            ..LabelSelector::default()
        }),
        pod_selector: Some(LabelSelector {
            match_labels: Some(OPERATOR_LABELS.map(|(name, value)| (name.into(), value.into())).into()),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let admin_peers = [operator].into_iter().chain(wanted.metrics_from.iter().cloned()).collect();
    let servers = model.config.kafka.bootstrap_servers.iter();
    let broker_ports = servers.filter_map(|server| server.rsplit_once(':')?.1.parse().ok());
    let token_endpoint =
        model.config.kafka.sasl.iter().filter_map(|sasl| Some(&sasl.oauth.as_ref()?.token_endpoint_url));
    let collector = model.relay.tracing.iter().map(|tracing| &tracing.endpoint);
    let queue = queue(model).map(|queue| queue.endpoint_url.as_ref().unwrap_or(&queue.queue_url));
    let url_ports = token_endpoint
        .chain(collector)
        .chain(queue)
        .filter_map(|url| Some(Url::parse(url).ok()?.port_or_known_default()?.into()));
    let called: BTreeSet<i32> = broker_ports.chain(url_ports).collect();
    let called = called.into_iter().map(|number| port("TCP", number)).collect();
    let dns = DNS_PORTS.into_iter().flat_map(|number| ["UDP", "TCP"].map(|protocol| port(protocol, number)));
    let open = |ports| NetworkPolicyEgressRule { to: None, ports: Some(ports) };
    let egress = [open(dns.collect()), open(called)].into_iter().chain(aws_credentials(model));
    let events_ports = [EVENTS_PORT].into_iter().chain(model.speaks_both().then_some(TLS_EVENTS_PORT));
    let events_ports = events_ports.map(|number| port("TCP", number)).collect();
    let events = model.endpoint.is_some().then(|| NetworkPolicyIngressRule {
        from: (!wanted.ingress_from.is_empty()).then(|| wanted.ingress_from.clone()),
        ports: Some(events_ports),
    });
    let observed =
        NetworkPolicyIngressRule { from: Some(admin_peers), ports: Some(vec![port("TCP", ADMIN_PORT)]) };
    Some(NetworkPolicy {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(model)),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(events.into_iter().chain([observed]).collect()),
            egress: Some(egress.chain(wanted.additional_egress.iter().cloned()).collect()),
        }),
    })
}

/// Out to where pods get the credentials of their IAM role: AWS STS for IRSA, the agent on the node for EKS Pod Identity.
fn aws_credentials(model: &Model) -> Vec<NetworkPolicyEgressRule> {
    let sasl = model.config.kafka.sasl.as_ref();
    let is_for_kafka = sasl.is_some_and(|sasl| sasl.aws_msk_iam.is_some() && sasl.password_file.is_none());
    let is_for_queue = queue(model).is_some_and(|queue| queue.credentials.is_none());
    if !is_for_kafka && !is_for_queue {
        return Vec::new();
    }
    let agent = POD_IDENTITY_AGENT.map(|cidr| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.into(), except: None }),
        ..NetworkPolicyPeer::default()
    });
    vec![
        NetworkPolicyEgressRule { to: None, ports: Some(vec![port("TCP", 443)]) },
        NetworkPolicyEgressRule { to: Some(agent.into()), ports: Some(vec![port("TCP", 80)]) },
    ]
}

fn queue(model: &Model) -> Option<&SqsConfig> {
    match &model.config.source {
        SourceConfig::Sqs(queue) => Some(queue),
        SourceConfig::Webhook | SourceConfig::ApiDestination(_) => None,
    }
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(number)),
        ..NetworkPolicyPort::default()
    }
}
