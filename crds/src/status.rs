//! The status of a `PresenceRoute`: what the operator has observed, and when.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use presenceroute_core::genesys_api::{ApiEndpoint, IntegrationSpec, RegistrationSpec};

use crate::references::{CaSecretRef, OAuthClientSecretRef};
use crate::spec::{IntegrationMode, ServiceType};

/// The observed state of a `PresenceRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
// No generation is -1: a route that the operator has not seen yet does not pass for one that is as its spec says.
#[schemars(extend("default" = { "observedGeneration": -1 }))]
pub struct PresenceRouteStatus {
    /// The generation of the spec that the status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, SecretsResolved, RelayAvailable, RoutingLive, EndpointExposed, Registered and Ready; Stalled while only a
    /// person can make the route ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The source, and what is set up for it at Genesys Cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// The endpoint that the relays serve, and those that Genesys Cloud may still call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointStatus>,
    /// The routing table, and the pods that serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingStatus>,
    /// The signing secrets, and the step of a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing: Option<SigningStatus>,
    /// How the endpoint is exposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<ExposureStatus>,
    /// The relay pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayPodsStatus>,
}

impl PresenceRouteStatus {
    /// The registration at Genesys Cloud.
    #[must_use]
    pub fn registration(&self) -> Option<&RegistrationStatus> {
        self.source.as_ref()?.registration.as_ref()
    }

    /// The integration with Amazon EventBridge at Genesys Cloud.
    #[must_use]
    pub fn integration(&self) -> Option<&IntegrationStatus> {
        self.source.as_ref()?.integration.as_ref()
    }

    /// Registrations and integrations at places that the spec does not name any more.
    #[must_use]
    pub fn former_registrations(&self) -> &[RegistrationLocation] {
        self.source.as_ref().map_or(&[], |source| &source.former_registrations)
    }
}

/// The source, and what is set up for it at Genesys Cloud.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Which source it is.
    #[serde(rename = "type")]
    pub type_: SourceType,
    /// The registration at Genesys Cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<RegistrationStatus>,
    /// The integration with Amazon EventBridge at Genesys Cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integration: Option<IntegrationStatus>,
    /// Registrations and integrations at places that the spec does not name any more, until Genesys Cloud confirms that they are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_registrations: Vec<RegistrationLocation>,
}

/// The sources that a spec can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SourceType {
    /// `spec.source.webhook`.
    #[default]
    Webhook,
    /// `spec.source.amazonEventBridge`.
    AmazonEventBridge,
}

impl SourceType {
    fn is_webhook(&self) -> bool {
        *self == Self::Webhook
    }
}

/// The integration with Amazon EventBridge as it was last seen at Genesys Cloud. It is written before the first call that
/// could make one, then without an id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntegrationStatus {
    /// The id that Genesys Cloud gave it; absent until an answer has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The integration.
    #[serde(flatten)]
    pub spec: IntegrationSpec,
    /// Who keeps it.
    #[serde(default)]
    pub mode: IntegrationMode,
    /// The full name of its event source, which the event bus in AWS must have, too:
    /// `aws.partner/genesys.com/cloud/ORGANIZATION/SUFFIX`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_source_name: Option<String>,
    /// The state that Genesys Cloud reports: `ACTIVE`, `ACTIVATING`, `INACTIVE`, `DEACTIVATING` or `ERROR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_state: Option<String>,
    /// The API that holds it.
    pub access: RegistrationAccess,
    /// True until Genesys Cloud accepts the OAuth client for the first time: nothing can have been created before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unauthenticated: bool,
    /// The time since which Genesys Cloud confirms all of this. The operator verifies it every five minutes, without
    /// writing that down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_time: Option<Time>,
}

impl IntegrationStatus {
    /// The place of the integration, without its content.
    #[must_use]
    pub fn location(&self) -> RegistrationLocation {
        RegistrationLocation {
            id: self.id.clone(),
            type_: SourceType::AmazonEventBridge,
            name: self.spec.name.clone(),
            access: self.access.clone(),
        }
    }
}

/// The registration at Genesys Cloud as it was last seen there. It is written before the first call that could make
/// one, then without an id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationStatus {
    /// The id that Genesys Cloud gave it; absent until an answer has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The registration.
    #[serde(flatten)]
    pub spec: RegistrationSpec,
    /// The API that holds it.
    pub access: RegistrationAccess,
    /// True until Genesys Cloud accepts the OAuth client for the first time: nothing can have been registered before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unauthenticated: bool,
    /// The time since which Genesys Cloud confirms all of this. The operator verifies it every five minutes, without
    /// writing that down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_verified_time: Option<Time>,
}

impl RegistrationStatus {
    /// The place of the registration, without its content.
    #[must_use]
    pub fn location(&self) -> RegistrationLocation {
        RegistrationLocation {
            id: self.id.clone(),
            type_: SourceType::Webhook,
            name: self.spec.name.clone(),
            access: self.access.clone(),
        }
    }
}

/// Where a registration or an integration is: what it takes to find it again after the spec, or the operator, has changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationLocation {
    /// The id that Genesys Cloud gave it; absent until an answer has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The source that it was made for: a registration for a webhook, an integration for Amazon EventBridge.
    #[serde(rename = "type", default, skip_serializing_if = "SourceType::is_webhook")]
    pub type_: SourceType,
    /// The registration's name, or the suffix of the integration's event source.
    pub name: String,
    /// The API that holds it.
    pub access: RegistrationAccess,
}

/// The API that holds a registration, and the OAuth client to call it with. References, never credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistrationAccess {
    /// The API.
    #[serde(flatten)]
    pub api: ApiEndpoint,
    /// A keyed hash of the id of the OAuth client that the registration was made or last observed with.
    pub client_fingerprint: String,
    /// The Secret that held this client.
    pub credentials_secret_ref: OAuthClientSecretRef,
    /// A Secret with the certificate of the private CA that signed the API's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// The endpoint of the spec, the step of a change, and the endpoints that are served besides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Stable, or the step of the change that is under way.
    #[serde(default)]
    pub phase: EndpointPhase,
    /// The endpoint that the spec asks for.
    #[serde(flatten)]
    pub current: ServedEndpoint,
    /// Former endpoints that are served until Genesys Cloud calls the current one, and for a grace period more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub former: Vec<FormerEndpoint>,
}

/// The steps of a change of the endpoint, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndpointPhase {
    /// One endpoint, which Genesys Cloud calls once the route is registered.
    #[default]
    Stable,
    /// The relays are replaced by ones that serve the new endpoint beside the former one, which Genesys Cloud calls.
    Distributing,
    /// Every relay serves both; the registration is being updated with the new one.
    Registering,
    /// Genesys Cloud calls the new one; the former one is served until its `retireTime`.
    Retiring,
}

/// What it takes to serve an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedEndpoint {
    /// The URL.
    pub url: String,
    /// The Secret with the certificate of the relays, when they speak TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_secret_name: Option<String>,
    /// The type of the Service.
    #[serde(default)]
    pub service_type: ServiceType,
    /// How the URL leads to the Service.
    #[serde(default)]
    pub exposure: EndpointExposure,
    /// The Secret with the certificate of the Ingress, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_tls_secret_name: Option<String>,
}

/// How an endpoint's URL leads to the relays' Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndpointExposure {
    /// The Service is all there is.
    #[default]
    Service,
    /// By an Ingress.
    Ingress,
    /// By an HTTPRoute.
    Gateway,
}

/// An endpoint that the spec named before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FormerEndpoint {
    /// The endpoint.
    #[serde(flatten)]
    pub endpoint: ServedEndpoint,
    /// The time until which it is served; absent while Genesys Cloud may call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_time: Option<Time>,
}

/// The routing table, and the pods that serve it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoutingStatus {
    /// The content hash of the newest table.
    pub revision: String,
    /// The number of routes in it.
    pub routes: i32,
    /// The number of relay pods that report this revision.
    pub live_replicas: i32,
    /// Topics that a route names and Kafka does not have, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_topics: Vec<String>,
}

/// The active signing secrets and the step of a rotation. Revisions, never secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningStatus {
    /// The revision of the set of secrets that the relays are to accept.
    pub revision: String,
    /// Stable, or the step of the rotation that is under way.
    pub phase: SigningPhase,
    /// The `resourceVersion` of the Secret of `signingSecretRef` whose value Genesys Cloud has confirmed to sign with. A
    /// rotation is complete there once it is that of the newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_version: Option<String>,
    /// The time until which the old secret is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_time: Option<Time>,
}

/// The steps of a rotation, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SigningPhase {
    /// One secret, known to the relays and to Genesys Cloud.
    #[default]
    Stable,
    /// Waiting for every relay to accept the newest secret, in a rotation beside the old one.
    Distributing,
    /// Every relay accepts the newest secret; Genesys Cloud is being given it.
    Registering,
    /// Genesys Cloud signs with the new one; the old one is accepted until `retireTime`.
    Retiring,
}

/// How the endpoint is exposed, by what the exposing object reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExposureStatus {
    /// The object that exposes it, as `KIND/NAME`.
    pub exposed_by: String,
    /// The first addresses that the object reports. An HTTPRoute has none: its Gateways have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// The relay pods, for people and for the scale subresource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayPodsStatus {
    /// The number of pods.
    pub replicas: i32,
    /// The number of ready pods.
    pub ready_replicas: i32,
    /// The number of ready pods of those wanted, as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<String>,
    /// The label selector of the pods, as text.
    pub selector: String,
    /// The version that the pods report, or several joined by a comma during a rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}
