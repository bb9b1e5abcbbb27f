//! `spec.relay`: the relay pods.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pods::{DisruptionBudget, EnvironmentVariable, PodSecurity, ServiceAccount};
use crate::references::{SECRET_NAME, SECRET_NAME_MESSAGE, TlsSecretRef};

/// The relay pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.autoscaling) || !has(self.resources) || \
     (has(self.resources.requests) && 'cpu' in self.resources.requests) || \
     (has(self.resources.limits) && 'cpu' in self.resources.limits)"
).message("autoscaling needs resources.requests.cpu: the target is a percentage of it"))]
pub struct Relay {
    /// The number of pods. Ignored while `autoscaling` is set.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Lets a HorizontalPodAutoscaler choose the number of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Requests and limits of the relay's container. Default: requests of 50m CPU and 64Mi memory, and a limit of 256Mi
    /// memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// The affinity of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The spread of the pods. Default: over the nodes, as far as possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The PriorityClass of the pods. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')")
        .message("must be the name of a PriorityClass: lower case letters, digits, hyphens and dots"))]
    pub priority_class_name: Option<String>,
    /// The ServiceAccount that the pods run as. It has no rights in the cluster and no token is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccount>,
    /// The user and the groups that the pods run as. Default: user, group and fsGroup 65532. In a given securityContext, an
    /// absent field is left to the platform: with `securityContext: {}`, OpenShift assigns the ids of the namespace's range,
    /// as its restricted-v2 requires, and elsewhere the image's user 65532 runs. In any case the pods run as non-root,
    /// without privileges and capabilities, with a read-only root filesystem and the seccomp profile RuntimeDefault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurity>,
    /// Further environment variables of the relay's container, such as HTTPS_PROXY. The relay's own variables cannot be
    /// set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub extra_env: Vec<EnvironmentVariable>,
    /// The bound on voluntary disruptions, such as node drains. Default: maxUnavailable 1. A budget that allows no
    /// disruption keeps nodes from being drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_disruption_budget: Option<DisruptionBudget>,
    /// Further labels for the pods. They cannot replace the ones that select the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations for the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_annotations: BTreeMap<String, String>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<ImagePullSecret>,
    /// The relay's image. Default: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The level of the relay's log. An edit takes effect within seconds and restarts nothing. Default: info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Not nullable: the API server would check null against the values, and so drops it instead.
    #[schemars(with = "LogLevel")]
    pub log_level: Option<LogLevel>,
    /// Sends a span for each event to an OpenTelemetry collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Makes the pods terminate TLS, where no proxy in front does: the Service then listens on 443. Configure an Ingress
    /// or a Gateway in front to speak HTTPS to the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RelayTls>,
    /// Restricts the traffic to and from the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
    /// Limits of each pod. An edit rolls the pods.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
}

/// Limits of each relay pod; unset ones have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The largest body of a request, in bytes; a larger one is 413. A topic's `max.message.bytes` and a proxy's limit
    /// apply, too. Default: 1048576.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_024, max = 16_777_216))]
    pub max_body_bytes: Option<i32>,
    /// How long a connection may be without a request, in milliseconds. Longer than the proxy in front keeps one.
    /// Default: 620000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_000, max = 86_400_000))]
    pub idle_timeout_ms: Option<i32>,
    /// The most deliveries that the dedupe window holds; each takes 25 bytes of memory. Default: 100000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub dedupe_max_ids: Option<i32>,
    /// The length of the dedupe window, in milliseconds. Default: 600000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub dedupe_window_ms: Option<i32>,
}

impl Limits {
    /// Whether every limit has its default.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn replicas() -> i32 {
    2
}

/// What a relay needs at a few hundred events a second; the limit is on memory alone, because a CPU limit throttles
/// and adds to the latency.
fn default_resources() -> ResourceRequirements {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    let quantities = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, value)| ((*name).into(), Quantity((*value).into()))).collect())
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        limits: quantities(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

impl Relay {
    /// Requests and limits of the relay's container, or the default.
    #[must_use]
    pub fn resources(&self) -> ResourceRequirements {
        self.resources.clone().unwrap_or_else(default_resources)
    }

    /// The level of the relay's log, or the default.
    #[must_use]
    pub fn log_level(&self) -> LogLevel {
        self.log_level.unwrap_or_default()
    }

    /// Whether a pod requests CPU; where only a limit is set, the request is the same.
    #[must_use]
    pub fn requests_cpu(&self) -> bool {
        let resources = self.resources();
        let of_cpu = [&resources.requests, &resources.limits];
        of_cpu.into_iter().flatten().any(|quantities| quantities.contains_key("cpu"))
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            replicas: replicas(),
            autoscaling: None,
            resources: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: None,
            priority_class_name: None,
            service_account: None,
            security_context: None,
            extra_env: Vec::new(),
            pod_disruption_budget: None,
            pod_labels: BTreeMap::new(),
            pod_annotations: BTreeMap::new(),
            image_pull_secrets: Vec::new(),
            image: None,
            log_level: None,
            tracing: None,
            tls: None,
            network_policy: None,
            limits: Limits::default(),
        }
    }
}

/// Spans for OpenTelemetry, by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// The collector, such as `http://otel-collector.observability:4318`; `/v1/traces` is added to it.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub endpoint: String,
    /// The percentage of events for which a span is sent, unless the sender's `traceparent` decides.
    #[serde(default = "sample_percentage")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percentage: i32,
}

fn sample_percentage() -> i32 {
    100
}

/// TLS on the port that events are posted to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayTls {
    /// The Secret of type kubernetes.io/tls with the certificate, as cert-manager makes it. The pods reload a renewed
    /// certificate without a restart.
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub certificate_secret_ref: TlsSecretRef,
}

/// The bounds and the target of a HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("minReplicas must not be above maxReplicas"))]
pub struct Autoscaling {
    /// The fewest pods.
    #[serde(default = "replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// The most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// The target average CPU utilization, in percent of the request.
    #[serde(default = "target_cpu")]
    #[serde(rename = "targetCPUUtilizationPercentage")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_utilization_percentage: i32,
}

fn target_cpu() -> i32 {
    70
}

/// The name of a Secret for pulling images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImagePullSecret {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A NetworkPolicy for the relay pods: 8080 from the given peers, 9090 from the operator and the given scrapers,
/// out to DNS and to the ports of the bootstrap servers, the token endpoint and the collector that the spec names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// The peers that may post events to port 8080. Default: every peer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress_from: Vec<NetworkPolicyPeer>,
    /// The peers that may read the metrics on port 9090 besides the operator. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics_from: Vec<NetworkPolicyPeer>,
    /// Further egress rules. Needed where brokers advertise other ports than those of the bootstrap servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub additional_egress: Vec<NetworkPolicyEgressRule>,
}

/// The level of the relay's log. An edit takes effect within seconds and restarts nothing. Default: info.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And likely causes of one.
    Warn,
    /// And changes: tables, secrets, connections.
    #[default]
    Info,
    /// And every event's outcome.
    Debug,
    /// And the internals of the libraries.
    Trace,
}

impl LogLevel {
    /// The level as `tracing` filters name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}
