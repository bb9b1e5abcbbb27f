//! The `PresenceRoute` custom resource, version v1alpha1: the whole interface of the project.
//!
//! The types mirror the YAML, one file for each part of the spec. The API server refuses what is wrong in the manifest
//! itself, by the patterns and CEL rules written here; what needs the cluster is left to the operator.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

mod endpoint;
mod genesys;
mod kafka;
mod pods;
mod relay;
mod routes;
mod source;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use endpoint::{Endpoint, Gateway, Ingress, ParentReference, ServiceTemplate, ServiceType};
pub use genesys::{Genesys, GenesysApi};
pub use kafka::{AwsMskIam, BootstrapServer, Kafka, KafkaOauth, KafkaSasl, KafkaTls, SaslExtensionValue};
pub use pods::{
    ConfigMapKeyRef, DisruptionBudget, EnvironmentVariable, FieldRef, PodSecurity, SecretKeyRef,
    ServiceAccount, ValueSource,
};
pub use relay::{Autoscaling, ImagePullSecret, Limits, LogLevel, NetworkPolicy, Relay, RelayTls, Tracing};
pub use routes::{InvalidEvents, Route, Unmatched, UnmatchedAction};
pub use source::{
    AmazonEventBridge, ApiDestination, EventTypeName, IntegrationMode, NotificationTopic, Source, Sqs,
    Webhook,
};

use crate::status::PresenceRouteStatus;

/// Which presence events of a Genesys Cloud organisation go to which Kafka topics.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "presenceroute.io",
    version = "v1alpha1",
    kind = "PresenceRoute",
    plural = "presenceroutes",
    shortname = "pr",
    namespaced,
    derive = "PartialEq",
    status = "PresenceRouteStatus",
    doc = "PresenceRoute carries the presence events of a Genesys Cloud organisation to Kafka topics.",
    scale(
        spec_replicas_path = ".spec.relay.replicas",
        status_replicas_path = ".status.relay.replicas",
        label_selector_path = ".status.relay.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why the route is not ready, or Ready when it is"
    ),
    printcolumn(name = "Routes", type_ = "integer", json_path = ".status.routing.routes"),
    printcolumn(
        name = "Pods",
        type_ = "string",
        json_path = ".status.relay.pods",
        description = "Relay pods that are ready, of those wanted"
    ),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoint.url"),
    printcolumn(name = "Registration", type_ = "string", json_path = ".status.source.registration.id", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // The objects of a route are named after it, and a Service's name is a DNS label of at most 63 characters.
    validation = Rule::new("size(self.metadata.name) <= 56 && !self.metadata.name.contains('.')")
        .message("metadata.name must have at most 56 characters and no dot: the relay's Service is called NAME-relay"),
    validation = Rule::new("!self.metadata.name.matches('^[0-9]')")
        .message("metadata.name must begin with a letter: the relay's Service is called NAME-relay"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.source.webhook) || has(self.endpoint)")
        .message("spec.source.webhook needs spec.endpoint: its url is what Genesys Cloud calls"),
    validation = Rule::new(
        "!has(self.source.amazonEventBridge) || \
         has(self.source.amazonEventBridge.apiDestination) == has(self.endpoint)"
    ).message(
        "spec.source.amazonEventBridge.apiDestination needs spec.endpoint: its url is what Amazon EventBridge calls; with \
         sqs nothing is called, so there is no endpoint"
    ),
    validation = Rule::new(
        "!has(self.source.webhook) || has(self.source.webhook.eventTypes) || \
         !self.routes.exists(r, r.eventType.endsWith('*'))"
    ).message(
        "a route with a wildcard needs spec.source.webhook.eventTypes: Genesys Cloud subscribes to exact event types only"
    )
)]
pub struct PresenceRouteSpec {
    /// The Genesys Cloud organisation that sends the events.
    pub genesys: Genesys,
    /// The way in which the events leave Genesys Cloud.
    pub source: Source,
    /// The public URL that Genesys Cloud calls, and how it is exposed. Required by `source.webhook`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// The routing table. Every route that matches gets the event, at most once a topic.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub routes: Vec<Route>,
    /// What happens to an event whose type no route names. An event whose type a route names and for which no `when` is
    /// true is filtered: responded to with 200 and counted.
    #[serde(default)]
    pub unmatched: Unmatched,
    /// The Kafka cluster that the events go to.
    pub kafka: Kafka,
    /// The relay pods. An installation may have defaults for all fields but `replicas`, `autoscaling` and `tls`; a field of
    /// the route overrides them: maps key by key, `extraEnv` name by name, everything else as a whole.
    #[serde(default)]
    pub relay: Relay,
    /// Disables the registration at Genesys Cloud and keeps everything else.
    #[serde(default)]
    pub suspend: bool,
    /// Whether the registration is deleted together with this object.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl PresenceRouteSpec {
    /// The URL that Genesys Cloud calls, where the source is one that calls.
    #[must_use]
    pub fn endpoint_url(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|endpoint| endpoint.url.as_str())
    }
}

/// The fate of the registration when the PresenceRoute is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The registration is deleted; the PresenceRoute is removed once Genesys Cloud has confirmed that.
    #[default]
    Deregister,
    /// The registration stays, and Genesys Cloud is not called.
    Retain,
}
