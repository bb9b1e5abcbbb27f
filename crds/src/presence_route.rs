//! The `PresenceRoute` custom resource, version v1alpha1: the whole interface of the project.
//!
//! The types mirror the YAML. What can be known wrong from the manifest alone is refused by the API server, through
//! the patterns and CEL rules written here; what needs a look at the cluster is left to the operator.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use presenceroute_core::genesys_api::{RetryPolicy, TokenRequest};
use presenceroute_core::relay_config::{SaslMechanism, signature_header};

use crate::status::PresenceRouteStatus;

/// Which presence events of a Genesys Cloud organisation go to which Kafka topics.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "presenceroute.io",
    version = "v1alpha1",
    kind = "PresenceRoute",
    plural = "presenceroutes",
    shortname = "pr",
    category = "all",
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
        name = "Live",
        type_ = "integer",
        json_path = ".status.routing.liveReplicas",
        description = "Relay pods that serve the newest routing table"
    ),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.endpoint.url"),
    printcolumn(name = "Registration", type_ = "string", json_path = ".status.registration.id", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // The children are called after the route, and a Service's name is a DNS label of at most 63 characters.
    validation = Rule::new("size(self.metadata.name) <= 56 && !self.metadata.name.contains('.')")
        .message("metadata.name must have at most 56 characters and no dot: the relay's Service is called NAME-relay"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "has(self.genesys.eventTypes) || !self.routes.exists(r, r.eventType.endsWith('*'))"
).message("a route with a wildcard needs spec.genesys.eventTypes: Genesys Cloud subscribes to exact event types only"))]
pub struct PresenceRouteSpec {
    /// The Genesys Cloud organisation that sends the events.
    pub genesys: Genesys,
    /// The public URL that Genesys Cloud calls, and how it is exposed.
    pub endpoint: Endpoint,
    /// Which event goes where. Every route that matches gets the event, at most once a topic.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Atomic)]
    pub routes: Vec<Route>,
    /// What happens to an event that no route matches.
    #[serde(default)]
    pub unmatched: Unmatched,
    /// The Kafka cluster that the events go to.
    pub kafka: Kafka,
    /// The relay pods.
    #[serde(default)]
    pub relay: Relay,
    /// Disables the registration at Genesys Cloud and keeps everything else.
    #[serde(default)]
    pub suspend: bool,
    /// What becomes of the registration when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Where the Genesys Cloud API is, as whom to call it, and what to register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.region) != has(self.apiUrl)")
    .message("exactly one of region and apiUrl must be set"))]
pub struct Genesys {
    /// The region's domain, such as `mypurecloud.ie`; the API is then `https://api.REGION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9-]+([.][a-z0-9-]+)+$')")
        .message("must be the domain of a Genesys Cloud region, such as mypurecloud.ie"))]
    pub region: Option<String>,
    /// The base URL of the API, instead of a region: a simulator, a gateway or a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub api_url: Option<String>,
    /// The OAuth client (grant: client credentials).
    pub credentials_secret_ref: OAuthClientSecretRef,
    /// The registration's name at Genesys Cloud. Default: NAMESPACE/NAME. It must not be used by anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub endpoint_name: Option<String>,
    /// The event types to subscribe to. Default: the exact event types of the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new("self.all(t, t.matches('^[^* ]{1,256}$'))")
            .message("every event type must have 1 to 256 characters, no space and no wildcard")
    )]
    pub event_types: Option<Vec<EventTypeName>>,
    /// How often Genesys Cloud tries again when the endpoint does not accept an event.
    #[serde(default)]
    pub retry_policy: RetryPolicy,
    /// Where an organisation's API differs from the documented one.
    #[serde(default)]
    pub api: GenesysApi,
}

/// One exact event type. An alias so that the list's items get their length limit in the schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct EventTypeName(#[schemars(length(min = 1, max = 256))] pub String);

/// A Secret with the id and the secret of an OAuth client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuthClientSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the client's id.
    #[serde(default = "client_id_key")]
    pub client_id_key: String,
    /// The key that holds the client's secret.
    #[serde(default = "client_secret_key")]
    pub client_secret_key: String,
}

fn client_id_key() -> String {
    "clientId".into()
}

fn client_secret_key() -> String {
    "clientSecret".into()
}

/// Deviations of one organisation's API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.tokenPath.startsWith('/') && self.eventBridgesPath.startsWith('/')")
    .message("tokenPath and eventBridgesPath must begin with /"))]
pub struct GenesysApi {
    /// The path of the OAuth token endpoint.
    #[serde(default = "token_path")]
    #[schemars(length(max = 256))]
    pub token_path: String,
    /// The path of the EventBridge collection.
    #[serde(default = "event_bridges_path")]
    #[schemars(length(max = 256))]
    pub event_bridges_path: String,
    /// How the token is asked for.
    #[serde(default)]
    pub token_request: TokenRequest,
    /// The header that carries the HMAC-SHA256 of an event.
    #[serde(default = "signature_header")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9-]+$')")
        .message("must be an HTTP field name of letters, digits and hyphens"))]
    pub signature_header: String,
    /// A Secret with the certificate of the private CA that signed the API's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

fn token_path() -> String {
    "/api/v2/oauth/token".into()
}

fn event_bridges_path() -> String {
    "/api/v2/analytics/events/eventbridges".into()
}

impl Default for GenesysApi {
    fn default() -> Self {
        Self {
            token_path: token_path(),
            event_bridges_path: event_bridges_path(),
            token_request: TokenRequest::default(),
            signature_header: signature_header(),
            ca_secret_ref: None,
        }
    }
}

/// What Genesys Cloud calls. At most one of `ingress` and `gateway` exposes it; without either, the Service does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.ingress) && has(self.gateway))")
    .message("ingress and gateway cannot both be set"))]
pub struct Endpoint {
    /// The URL that Genesys Cloud posts events to. Its path is the path that the relay serves.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub url: String,
    /// The secret that events are signed with.
    pub signing_secret_ref: SigningSecretRef,
    /// The Service in front of the relay pods.
    #[serde(default)]
    pub service: ServiceTemplate,
    /// Exposes the Service by an Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// Exposes the Service by an HTTPRoute of the Gateway API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
}

/// A Secret key with a webhook secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the secret.
    #[serde(default = "signing_secret_key")]
    pub key: String,
}

fn signing_secret_key() -> String {
    "secret".into()
}

/// How the relay's Service is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTemplate {
    /// The Service's type.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations for the Service, such as a cloud load balancer's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The types of Service that can stand in front of the relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reachable inside the cluster.
    #[default]
    ClusterIP,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable through a load balancer that the cluster's cloud provides.
    LoadBalancer,
}

/// An Ingress for the host and path of `endpoint.url`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// The IngressClass. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// Annotations for the Ingress, such as cert-manager's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The Secret with the certificate for the host. Without it the Ingress has no TLS section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret_name: Option<String>,
}

/// An HTTPRoute for the host and path of `endpoint.url`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// The Gateways that the HTTPRoute attaches to.
    #[schemars(length(min = 1, max = 32))]
    pub parent_refs: Vec<ParentReference>,
}

/// A Gateway (Gateway API, `ParentReference`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// The Gateway's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The Gateway's namespace. Default: the PresenceRoute's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The listener of the Gateway. Default: every listener that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// One rule: events of this type, that fulfil this condition, go to this topic under this key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// An event type, or the beginning of one followed by `*`, which matches the rest.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[^* ]*[*]?$')")
        .message("must be an event type without spaces; a * can only be its last character"))]
    pub event_type: String,
    /// A CEL expression over `id`, `eventType`, `timestamp`, `source` and `attributes` that must be true. On an event of
    /// more than 1000 values or 64 KiB of text, one with a loop (`all`, `exists`, `map`, `filter`) has no answer, which
    /// counts as false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub when: Option<String>,
    /// The topic that the event is published to.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
        .message("must be a legal Kafka topic name: letters, digits, dots, underscores and hyphens, at most 249"))]
    pub topic: String,
    /// What becomes the record's key: `id` (the default), `source` or `attributes.PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^(id|source|attributes([.][A-Za-z0-9_-]+)+)$')")
        .message("must be id, source or attributes.PATH"))]
    pub key: Option<String>,
}

/// What happens to an event that no route matches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.action == 'DeadLetter') == has(self.topic)")
        .message("topic must be set when action is DeadLetter, and only then"),
    validation = Rule::new("self.action == 'Reject' || !has(self.status)")
        .message("status can only be set when action is Reject")
)]
pub struct Unmatched {
    /// Reject answers an error, Drop answers 200 and counts, DeadLetter publishes to `topic`.
    #[serde(default)]
    pub action: UnmatchedAction,
    /// The answer of Reject: 404 (the default) or 400. Genesys Cloud drops the event on either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == 404 || self == 400").message("must be 404 or 400"))]
    pub status: Option<i32>,
    /// The topic of DeadLetter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
        .message("must be a legal Kafka topic name: letters, digits, dots, underscores and hyphens, at most 249"))]
    pub topic: Option<String>,
}

/// The three fates of an unmatched event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnmatchedAction {
    /// Answer an error.
    #[default]
    Reject,
    /// Answer 200, count it, publish nothing.
    Drop,
    /// Publish it to a topic of its own.
    DeadLetter,
}

/// The Kafka cluster, and how to be let in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kafka {
    /// Brokers to find the cluster by, each HOST:PORT.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new(r"self.all(b, b.matches(r'^[^:/, ]+:[0-9]{1,5}$|^\[[0-9a-fA-F:]+\]:[0-9]{1,5}$'))")
            .message("every bootstrap server must be HOST:PORT, without a scheme")
    )]
    pub bootstrap_servers: Vec<BootstrapServer>,
    /// Encrypts the connections, and authenticates the relay when a client certificate is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Authenticates the relay by SASL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Further librdkafka producer properties by their own names. Those that the relay's promises rest on are
    /// refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// HOST:PORT of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BootstrapServer(#[schemars(length(min = 3, max = 260))] pub String);

/// TLS towards the brokers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaTls {
    /// The CA that signed the brokers' certificates. Default: the public CAs of the relay's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The relay's own certificate, for mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<ClientCertificateSecretRef>,
}

/// A Secret with CA certificates in PEM. The default key is the one of Strimzi's cluster CA secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the certificates.
    #[serde(default = "ca_key")]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".into()
}

/// A Secret with a certificate and its private key in PEM. The default keys are those of a Strimzi KafkaUser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificateSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the certificate.
    #[serde(default = "certificate_key")]
    pub certificate_key: String,
    /// The key that holds the private key, unencrypted.
    #[serde(default = "private_key_key")]
    pub private_key_key: String,
}

fn certificate_key() -> String {
    "user.crt".into()
}

fn private_key_key() -> String {
    "user.key".into()
}

/// SASL towards the brokers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.mechanism == 'OAUTHBEARER') == has(self.oauth)")
    .message("oauth must be set when mechanism is OAUTHBEARER, and only then"))]
pub struct KafkaSasl {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// The Secret with the user's name and password; with OAUTHBEARER, the id and the secret of the OAuth client.
    pub credentials_secret_ref: KafkaCredentialsSecretRef,
    /// Where the relay gets its tokens, with OAUTHBEARER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<KafkaOauth>,
}

/// A token endpoint that is asked by the client-credentials grant (RFC 6749, section 4.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaOauth {
    /// Its URL.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub token_endpoint_url: String,
    /// The scope to ask for. Default: whatever the server gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub scope: Option<String>,
    /// The CA that signed the token endpoint's certificate. Default: the public CAs of the relay's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// A Secret with a Kafka user's name and password. It fits a Strimzi KafkaUser's Secret as it is, which has a
/// password but no user name: the user is then called like the Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaCredentialsSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the user's name. Where the Secret lacks it, the user is called like the Secret.
    #[serde(default = "username_key")]
    pub username_key: String,
    /// The key that holds the password.
    #[serde(default = "password_key")]
    pub password_key: String,
}

fn username_key() -> String {
    "username".into()
}

fn password_key() -> String {
    "password".into()
}

/// The relay pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Relay {
    /// How many pods. Ignored while `autoscaling` is set.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Lets a HorizontalPodAutoscaler choose how many pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Requests and limits of the relay's container.
    #[serde(default = "resources")]
    pub resources: ResourceRequirements,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Where the pods go, and near what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How the pods are spread. Default: over the nodes, as far as possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
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
    /// The level of the relay's log. An edit takes effect within seconds and restarts nothing.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Sends a span for each event to an OpenTelemetry collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    /// Has the pods speak TLS themselves, for where no proxy in front does: the Service then listens on 443. An Ingress
    /// or a Gateway in front must be told to speak HTTPS to the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RelayTls>,
    /// Restricts who talks to the pods and whom they talk to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
}

fn replicas() -> i32 {
    2
}

/// What a relay needs at a few hundred events a second; the limit is on memory alone, because a CPU limit throttles
/// and adds to the latency.
fn resources() -> ResourceRequirements {
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

impl Default for Relay {
    fn default() -> Self {
        Self {
            replicas: replicas(),
            autoscaling: None,
            resources: resources(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            affinity: None,
            topology_spread_constraints: None,
            pod_labels: BTreeMap::new(),
            pod_annotations: BTreeMap::new(),
            image_pull_secrets: Vec::new(),
            image: None,
            log_level: LogLevel::default(),
            tracing: None,
            tls: None,
            network_policy: None,
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
    /// Of how many events in 100 a span is sent, where the sender has not decided that by its `traceparent`.
    #[serde(default = "sample_percentage")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percentage: i32,
}

fn sample_percentage() -> i32 {
    100
}

/// TLS on the port that events are posted to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayTls {
    /// The Secret of type kubernetes.io/tls with the certificate, as cert-manager makes it. The pods take up a renewed
    /// one without a restart.
    pub certificate_secret_ref: TlsSecretRef,
}

/// A Secret of type kubernetes.io/tls, with the keys `tls.crt` and `tls.key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl TlsSecretRef {
    /// The key of the certificate, with its chain.
    pub const CERTIFICATE_KEY: &str = "tls.crt";
    /// The key of the private key.
    pub const PRIVATE_KEY_KEY: &str = "tls.key";
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
    /// The average CPU use that is aimed at, in percent of the request.
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
/// out to DNS and Kafka.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Who may post events to port 8080. Default: anyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress_from: Vec<NetworkPolicyPeer>,
    /// Who may read the metrics on port 9090 besides the operator. Default: nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics_from: Vec<NetworkPolicyPeer>,
}

/// How much the relay says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what may become one.
    Warn,
    /// And what changes: tables, secrets, connections.
    #[default]
    Info,
    /// And every event's outcome.
    Debug,
    /// And the libraries' inner life.
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

/// What becomes of the registration when the PresenceRoute is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted, and the PresenceRoute goes only when Genesys Cloud has confirmed that.
    #[default]
    Deregister,
    /// It stays, and Genesys Cloud is not called.
    Retain,
}
