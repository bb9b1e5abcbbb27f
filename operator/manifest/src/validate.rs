//! The second step: the spec and what it points at become a [`Model`] that cannot be wrong, or a list of problems.
//!
//! Pure. The later steps build from the model alone and check nothing again.

mod pods;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use presenceroute_core::condition::{Budget, Condition, ConditionChecks, ConditionError};
use presenceroute_core::genesys_api::{ApiEndpoint, IntegrationSpec, RegistrationSpec, TokenRequest};
use presenceroute_core::kafka_properties::{contradiction, refused_property, wrong_value};
use presenceroute_core::relay_config::{
    ApiDestinationConfig, AwsCredentialFiles, AwsMskIamConfig, CertificateFiles, KafkaConfig,
    KafkaOauthConfig, KafkaSaslConfig, KafkaTlsConfig, Limits, RelayConfig, SaslMechanism, SourceConfig,
    SqsConfig, default_path, signature_header,
};
use presenceroute_core::routing::{
    CheckedTable, EventTypePattern, InvalidEvents, RecordKey, RejectStatus, Route, RoutingError,
    RoutingTable, TopicName, Unmatched,
};
use presenceroute_core::url::parse_http_url;
use presenceroute_crds::references::TlsSecretRef;
use presenceroute_crds::spec::{
    self, AmazonEventBridge, DeletionPolicy, IntegrationMode, Kafka, KafkaOauth, KafkaSasl, Relay,
    SaslExtensionValue, ServiceTemplate, UnmatchedAction, Webhook,
};
use presenceroute_crds::status::{EndpointExposure, EndpointPhase, EndpointStatus, ServedEndpoint};
use presenceroute_crds::{PresenceRoute, PresenceRouteSpec};
use secrecy::ExposeSecret;
use serde::Serialize;
use url::Url;

use crate::admission::is_subdomain;
use crate::dereference::{OAuthClient, PushCredential, References, SecretProblem, secret_names};
use crate::field::FieldPath;
use crate::kept_clients;
use crate::registration_name::reserved_for_another;
use crate::rotation::secret_name;

/// The pods' port for TLS while their own port speaks plain HTTP.
pub const TLS_PORT: u16 = 8443;

pub(crate) use pods::problems as relay_problems;

/// How large a routing table may be as YAML: a ConfigMap holds 1 MiB, and the level of the log is beside it.
const MAX_TABLE_BYTES: usize = (1 << 20) - 64;

/// Where the relay's container finds the files that it is given.
pub mod paths {
    /// `relay.yaml`.
    pub const CONFIG_DIR: &str = "/etc/presenceroute/relay";
    /// `routing.yaml` and the level of the log.
    pub const ROUTING_DIR: &str = "/etc/presenceroute/routing";
    /// The signing secrets.
    pub const SIGNING_DIR: &str = "/etc/presenceroute/signing";
    /// The brokers' CA.
    pub const KAFKA_CA_DIR: &str = "/etc/presenceroute/kafka/ca";
    /// The relay's certificate for Kafka.
    pub const KAFKA_CLIENT_DIR: &str = "/etc/presenceroute/kafka/client";
    /// The relay's user and password for Kafka.
    pub const KAFKA_SASL_DIR: &str = "/etc/presenceroute/kafka/sasl";
    /// The CA of Kafka's token endpoint.
    pub const KAFKA_OAUTH_CA_DIR: &str = "/etc/presenceroute/kafka/oauth-ca";
    /// The AWS access key.
    pub const AWS_DIR: &str = "/etc/presenceroute/aws";
    /// The certificate of the port that events are posted to.
    pub const TLS_DIR: &str = "/etc/presenceroute/tls";
}

/// A valid PresenceRoute.
pub struct Model {
    /// The PresenceRoute's namespace.
    pub namespace: String,
    /// The PresenceRoute's name, after which its objects are named.
    pub name: String,
    /// The PresenceRoute's uid.
    pub uid: String,
    /// The organisation.
    pub genesys: GenesysModel,
    /// How its events leave it.
    pub source: SourceModel,
    /// What senders prove themselves with, where the source is pushed to.
    pub push_credential: Option<PushCredential>,
    /// What is to be called, where the source is pushed to.
    pub endpoint: Option<EndpointModel>,
    /// What is served: the endpoint, and those that may still be called. Without an endpoint, nothing.
    pub served: EndpointStatus,
    /// The routing table, reloaded while the relay runs.
    pub table: CheckedTable,
    /// The relay's configuration, read at its start.
    pub config: RelayConfig,
    /// The user's Secrets that the relay mounts.
    pub mounts: Vec<SecretMount>,
    /// Problems of those Secrets. A new relay pod could not start; a running one is not disturbed.
    pub mount_problems: Vec<SecretProblem>,
    /// The relay pods.
    pub relay: Relay,
    /// Whether the source is disabled.
    pub suspended: bool,
    /// The fate of the registration when the route is deleted.
    pub deletion_policy: DeletionPolicy,
}

/// The API of a Genesys Cloud organisation, and the OAuth client to call it with.
pub struct GenesysModel {
    /// The API's base URL.
    pub api_url: Url,
    /// The base URL of the login service, where it is not the API.
    pub login_url: Option<Url>,
    /// The path of the token endpoint.
    pub token_path: String,
    /// The form of the token request.
    pub token_request: TokenRequest,
    /// The API's private CA, in PEM.
    pub ca_pem: Option<Result<Vec<u8>, SecretProblem>>,
    /// The OAuth client.
    pub oauth_client: Result<OAuthClient, SecretProblem>,
}

impl GenesysModel {
    /// The API with its collection of registrations.
    #[must_use]
    pub fn api_endpoint(&self, event_bridges_path: &str) -> ApiEndpoint {
        ApiEndpoint {
            api_url: self.api_url.as_str().trim_end_matches('/').to_owned(),
            login_url: self.login_url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned()),
            token_path: self.token_path.clone(),
            event_bridges_path: event_bridges_path.to_owned(),
            token_request: self.token_request,
        }
    }
}

/// How events leave Genesys Cloud.
pub enum SourceModel {
    /// Genesys Cloud posts them.
    Webhook(WebhookModel),
    /// Genesys Cloud sends them to Amazon EventBridge.
    AmazonEventBridge(EventBridgeModel),
}

/// An integration that sends events to Amazon EventBridge, and their way from there.
pub struct EventBridgeModel {
    /// The integration.
    pub integration: IntegrationSpec,
    /// Who keeps it.
    pub mode: IntegrationMode,
}

/// The fewest bytes of a signing secret or an API key that nothing is said of.
pub const SHORTEST_SECRET: usize = 16;

/// A registration that posts signed events to the endpoint.
pub struct WebhookModel {
    /// The header with an event's signature.
    pub signature_header: String,
    /// The path of the EventBridge collection.
    pub event_bridges_path: String,
    /// What is to be registered.
    pub registration: RegistrationSpec,
}

/// What Genesys Cloud calls, and how it is exposed.
pub struct EndpointModel {
    /// The URL.
    pub url: Url,
    /// How the URL leads to the Service.
    pub exposure: Exposure,
    /// The Service in front of the relay pods.
    pub service: ServiceTemplate,
}

impl EndpointModel {
    /// What it takes to serve it.
    fn served(&self, relay: &Relay) -> ServedEndpoint {
        let (exposure, ingress_tls_secret_name) = match &self.exposure {
            Exposure::Service => (EndpointExposure::Service, None),
            Exposure::Ingress(ingress) => (EndpointExposure::Ingress, ingress.tls_secret_name.clone()),
            Exposure::Gateway(_) => (EndpointExposure::Gateway, None),
        };
        ServedEndpoint {
            url: self.url.to_string(),
            certificate_secret_name: relay.tls.as_ref().map(|tls| tls.certificate_secret_ref.name.clone()),
            service_type: self.service.type_,
            exposure,
            ingress_tls_secret_name,
        }
    }
}

/// How the endpoint's URL leads to the relay's Service.
pub enum Exposure {
    /// The Service is all there is.
    Service,
    /// An Ingress.
    Ingress(spec::Ingress),
    /// An HTTPRoute.
    Gateway(spec::Gateway),
}

/// A Secret that relay pods mount, and where.
pub struct SecretMount {
    /// The volume's name.
    pub volume: &'static str,
    /// The Secret's name.
    pub secret: String,
    /// Where it appears.
    pub directory: &'static str,
}

impl Model {
    /// What a signing secret or an API key of fewer than [`SHORTEST_SECRET`] bytes means. The senders and the relays take it.
    #[must_use]
    pub fn weak_push_credential(&self) -> Option<String> {
        let length = self.push_credential.as_ref()?.value.as_ref().ok()?.expose_secret().len();
        let what = match self.source {
            SourceModel::Webhook(_) => "the signing secret",
            SourceModel::AmazonEventBridge(_) => "the API key",
        };
        (length < SHORTEST_SECRET).then(|| {
            format!(
                "{what} has fewer than {SHORTEST_SECRET} bytes, so that it can be guessed; make a random one, such as \
                 with openssl rand -hex 32"
            )
        })
    }

    /// The integration at Genesys Cloud, where the source has one.
    #[must_use]
    pub fn integration(&self) -> Option<&EventBridgeModel> {
        match &self.source {
            SourceModel::Webhook(_) => None,
            SourceModel::AmazonEventBridge(event_bridge) => Some(event_bridge),
        }
    }

    /// The registration at Genesys Cloud, where the source is a webhook.
    #[must_use]
    pub fn webhook(&self) -> Option<&WebhookModel> {
        match &self.source {
            SourceModel::Webhook(webhook) => Some(webhook),
            SourceModel::AmazonEventBridge(_) => None,
        }
    }

    /// Whether the endpoint is a port of the relays that speaks TLS.
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        self.relay.tls.is_some()
    }

    /// Whether a former endpoint is served by the other protocol, and by a port of its own.
    #[must_use]
    pub fn speaks_both(&self) -> bool {
        self.config.tls_port.is_some()
    }

    /// Has former endpoints served beside the one of the spec, as `served` says. `registered_url` is what Genesys Cloud
    /// was told last; it stays so until every relay serves the new endpoint. `can_encrypt` says whether the Secret of a
    /// former endpoint's certificate is there: without it, no pod could start.
    pub fn serve(&mut self, served: EndpointStatus, registered_url: Option<&str>, can_encrypt: bool) {
        let is_encrypted =
            |endpoint: &ServedEndpoint| endpoint.certificate_secret_name.clone().filter(|_| can_encrypt);
        for former in &served.former {
            let path = Url::parse(&former.endpoint.url).map(|url| url.path().to_owned());
            if let Ok(path) = path
                && path != self.config.path
                && !self.config.former_paths.contains(&path)
            {
                self.config.former_paths.push(path);
            }
        }
        if self.speaks_tls() {
            let mut former = served.former.iter();
            if former.any(|former| former.endpoint.certificate_secret_name.is_none()) {
                self.config.tls_port = Some(TLS_PORT);
            }
        } else if let Some(secret) = served.former.iter().find_map(|former| is_encrypted(&former.endpoint)) {
            self.config.tls = Some(tls_files());
            self.config.tls_port = Some(TLS_PORT);
            self.mounts.push(tls_mount(secret));
        }
        if let (EndpointPhase::Distributing, Some(url)) = (served.phase, registered_url)
            && let SourceModel::Webhook(webhook) = &mut self.source
        {
            url.clone_into(&mut webhook.registration.url);
        }
        self.served = served;
    }

    /// Every Secret that is not as it should be.
    pub fn secret_problems(&self) -> Vec<&SecretProblem> {
        self.call_secret_problems().chain(self.relay_secret_problems()).collect()
    }

    /// The problems of Secrets that only calls to Genesys Cloud need.
    pub fn call_secret_problems(&self) -> impl Iterator<Item = &SecretProblem> {
        let GenesysModel { oauth_client, ca_pem, .. } = &self.genesys;
        let ca_problem = ca_pem.as_ref().and_then(|ca| ca.as_ref().err());
        oauth_client.as_ref().err().into_iter().chain(ca_problem)
    }

    /// The problems of Secrets that relays need: what senders prove themselves with, and those that relay pods mount.
    pub fn relay_secret_problems(&self) -> impl Iterator<Item = &SecretProblem> {
        let credential = self.push_credential.as_ref().and_then(|credential| credential.value.as_ref().err());
        credential.into_iter().chain(&self.mount_problems)
    }
}

/// What is wrong with a spec. The API server refuses most of it already; an object stored under an older CRD comes here
/// unchecked.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SpecProblem {
    /// A part of the routing table.
    #[error("spec.{field}: {cause}")]
    Routing {
        /// Where.
        field: String,
        /// What.
        cause: RoutingError,
    },
    /// Something that is no usable URL.
    #[error("spec.{field}: {value:?} is not an http or https URL without user, query, fragment and wildcard")]
    Url {
        /// Where.
        field: &'static str,
        /// What is written there.
        value: String,
    },
    /// A route with a wildcard, and no event types to subscribe to.
    #[error(
        "spec.source.webhook.eventTypes: must be set, because {0:?} has a wildcard and Genesys Cloud subscribes to exact \
         event types only"
    )]
    EventTypes(String),
    /// A subscription to more than one event type.
    #[error(
        "spec.source.webhook.eventTypes: {0:?} has a wildcard, and Genesys Cloud subscribes to exact event types only; list \
         them one by one"
    )]
    SubscribedWildcard(String),
    /// A route for an event type that the source does not send.
    #[error(
        "spec.routes[{index}].eventType: {event_type:?} is none of spec.source.amazonEventBridge.topics, so that no such \
         event comes; add it there, or correct it"
    )]
    UnsentEventType {
        /// Which route.
        index: usize,
        /// Its event type.
        event_type: String,
    },
    /// The name of a registration of another namespace.
    #[error(
        "spec.source.webhook.name: {name:?} is reserved to the namespace {namespace:?}; begin it with the route's own \
         namespace, {own}/, or use a name without a slash"
    )]
    ReservedName {
        /// The name.
        name: String,
        /// The namespace that it is reserved to.
        namespace: String,
        /// The route's namespace.
        own: String,
    },
    /// A Secret that the operator writes.
    #[error(
        "spec.{field}: {name:?} is a Secret that the operator keeps for the route; use a Secret of another name"
    )]
    OperatorsSecret {
        /// Where.
        field: Cow<'static, str>,
        /// Its name.
        name: String,
    },
    /// A Kafka property that is the relay's own.
    #[error("spec.kafka.properties: {name:?} cannot be set: {reason}")]
    KafkaProperty {
        /// The property.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A Kafka property with a value that librdkafka refuses.
    #[error("spec.kafka.properties: {name:?} must be {expected}")]
    KafkaPropertyValue {
        /// The property.
        name: String,
        /// What it has to be.
        expected: String,
    },
    /// A name after which no Service can be named.
    #[error(
        "metadata.name: {0:?} must begin with a letter, and have letters, digits and hyphens only and at most 56 \
         characters: the relay's Service is called NAME-relay; create the PresenceRoute under another name"
    )]
    Name(String),
    /// A name that no Secret has.
    #[error(
        "spec.{field}: {name:?} cannot be the name of a Secret: lower case letters, digits, hyphens and dots, with a \
         letter or digit at both ends of each part"
    )]
    SecretName {
        /// Where.
        field: Cow<'static, str>,
        /// The name.
        name: String,
    },
    /// A part of the relay pods that Kubernetes would refuse, or that contradicts the rest of the spec.
    #[error("spec.relay.{field}: {cause}")]
    Pods {
        /// Where.
        field: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// A table that no ConfigMap holds.
    #[error(
        "spec.routes: the routing table has {0} bytes, and a ConfigMap holds {MAX_TABLE_BYTES}; shorten the conditions, \
         or make several PresenceRoutes of it"
    )]
    TableTooLarge(usize),
    /// A limit that lets nothing through.
    #[error("spec.{field}: must be at least {least}, and is {value}")]
    Limit {
        /// Where.
        field: &'static str,
        /// What is written there.
        value: i32,
        /// The least that it may be.
        least: i32,
    },
    /// Two fields that contradict each other, or one that is missing.
    #[error("spec.{field}: {rule}")]
    Rule {
        /// Where.
        field: &'static str,
        /// What must hold.
        rule: &'static str,
    },
}

impl SpecProblem {
    /// The field that is wrong.
    pub fn field(&self) -> FieldPath {
        let spec = FieldPath::default().child("spec");
        match self {
            Self::Routing { field, .. } => FieldPath::parse(&format!("spec.{field}")),
            Self::Url { field, .. } | Self::Rule { field, .. } | Self::Limit { field, .. } => {
                FieldPath::parse(&format!("spec.{field}"))
            }
            Self::OperatorsSecret { field, .. } | Self::SecretName { field, .. } => {
                FieldPath::parse(&format!("spec.{field}"))
            }
            Self::Pods { field, .. } => FieldPath::parse(&format!("spec.relay.{field}")),
            Self::EventTypes(_) | Self::SubscribedWildcard(_) => {
                spec.child("source").child("webhook").child("eventTypes")
            }
            Self::UnsentEventType { index, .. } => {
                FieldPath::parse(&format!("spec.routes[{index}].eventType"))
            }
            Self::ReservedName { .. } => spec.child("source").child("webhook").child("name"),
            Self::Name(_) => FieldPath::parse("metadata.name"),
            Self::TableTooLarge(_) => spec.child("routes"),
            Self::KafkaProperty { name, .. } | Self::KafkaPropertyValue { name, .. } => {
                spec.child("kafka").child("properties").child(name)
            }
        }
    }

    /// What is wrong with it, without the field.
    pub fn cause(&self) -> String {
        let whole = self.to_string();
        whole.split_once(": ").map_or(whole.clone(), |(_, cause)| cause.to_owned())
    }
}

/// Validates a PresenceRoute. An error is every problem of its spec at once.
pub fn validate(route: &PresenceRoute, references: References) -> Result<Model, Vec<SpecProblem>> {
    validate_with(route, references, &ConditionChecks::default())
}

/// The same for one of many: a condition that was checked before is not compiled again.
///
/// # Errors
/// Those of [`validate`].
pub fn validate_with(
    route: &PresenceRoute,
    references: References,
    checks: &ConditionChecks,
) -> Result<Model, Vec<SpecProblem>> {
    let mut problems = Vec::new();
    let spec = &route.spec;
    let namespace = route.namespace().unwrap_or_else(|| "default".into());
    let name = route.name_any();

    let table = note(&mut problems, table_with(spec, |when, budget| checks.check(when, budget)));
    let source = note(&mut problems, one_source(&spec.source));
    let endpoint = source.and_then(|source| note(&mut problems, endpoint(source, spec.endpoint.as_ref())));
    let endpoint_url = endpoint.as_ref().and_then(Option::as_ref).map(|endpoint| &endpoint.url);
    let source_model = source
        .and_then(|source| note(&mut problems, source_model(source, spec, &namespace, &name, endpoint_url)));
    let genesys_urls = source.and_then(|source| note(&mut problems, genesys_urls(&spec.genesys, source)));
    let limits = note(&mut problems, limits(spec));
    problems.extend(reserved_name(route));
    problems.extend(operators_secrets(spec, &[secret_name(&name), kept_clients::secret_name(&name)]));
    problems.extend((!is_service_name(&name)).then(|| SpecProblem::Name(name.clone())));
    problems.extend(broken_rules(spec));

    let (
        Some(table),
        Some(source),
        Some(source_model),
        Some(endpoint),
        Some((api_url, login_url)),
        Some(limits),
        [],
    ) = (table, source, source_model, endpoint, genesys_urls, limits, problems.as_slice())
    else {
        return Err(problems);
    };
    let api = &spec.genesys.api;
    let (token_path, token_request) = match source {
        OneSource::Webhook(_) => ("/api/v2/oauth/token", TokenRequest::Json),
        OneSource::AmazonEventBridge(_) => ("/oauth/token", TokenRequest::Form),
    };
    Ok(Model {
        config: RelayConfig {
            source: source_config(source),
            path: endpoint.as_ref().map_or_else(default_path, |endpoint| endpoint.url.path().to_owned()),
            former_paths: Vec::new(),
            signature_header: match source {
                OneSource::Webhook(webhook) => webhook.signature_header.clone(),
                OneSource::AmazonEventBridge(_) => signature_header(),
            },
            kafka: kafka_config(&spec.kafka),
            limits,
            tls: spec.relay.tls.as_ref().map(|_| tls_files()),
            tls_port: None,
            route: Some(format!("{namespace}/{name}")),
        },
        mounts: kafka_mounts(&spec.kafka)
            .chain(aws_mount(source))
            .chain(spec.relay.tls.as_ref().map(|tls| tls_mount(tls.certificate_secret_ref.name.clone())))
            .collect(),
        mount_problems: references.mounted,
        genesys: GenesysModel {
            api_url,
            login_url,
            token_path: api.token_path.clone().unwrap_or_else(|| token_path.to_owned()),
            token_request: api.token_request.unwrap_or(token_request),
            ca_pem: references.genesys_ca,
            oauth_client: references.oauth_client,
        },
        source: source_model,
        push_credential: references.push_credential,
        uid: route.uid().unwrap_or_default(),
        suspended: spec.suspend,
        deletion_policy: spec.deletion_policy,
        relay: spec.relay.clone(),
        namespace,
        name,
        served: EndpointStatus {
            current: endpoint.as_ref().map(|endpoint| endpoint.served(&spec.relay)).unwrap_or_default(),
            ..EndpointStatus::default()
        },
        endpoint,
        table,
    })
}

/// Problems of the fields that go into the model as they are.
fn broken_rules(spec: &PresenceRouteSpec) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    problems.extend(spec.kafka.properties.keys().filter_map(|name| {
        refused_property(name).map(|reason| SpecProblem::KafkaProperty { name: name.clone(), reason })
    }));
    problems.extend(spec.kafka.properties.iter().filter_map(|(name, value)| {
        let expected = wrong_value(name, value)?;
        Some(SpecProblem::KafkaPropertyValue { name: name.clone(), expected })
    }));
    problems.extend(
        contradiction(&spec.kafka.properties)
            .map(|(name, expected)| SpecProblem::KafkaPropertyValue { name: name.to_owned(), expected }),
    );
    let misnamed = secret_names(spec).filter(|(_, name)| !is_subdomain(name));
    problems.extend(misnamed.map(|(field, name)| SpecProblem::SecretName { field, name: name.to_owned() }));
    problems.extend(spec.kafka.sasl.as_ref().and_then(sasl_problem));
    if spec.kafka.sasl.as_ref().is_some_and(|sasl| sasl.mechanism == SaslMechanism::AwsMskIam)
        && spec.kafka.tls.is_none()
    {
        problems.push(SpecProblem::Rule {
            field: "kafka",
            rule: "sasl.mechanism AWS_MSK_IAM needs tls: Amazon MSK accepts IAM authentication over TLS only",
        });
    }
    problems.extend(relay_problems(&spec.relay));
    if spec.kafka.bootstrap_servers.is_empty() {
        problems.push(SpecProblem::Rule {
            field: "kafka.bootstrapServers",
            rule: "must name at least one broker",
        });
    }
    if spec.relay.replicas < 0 {
        problems.push(SpecProblem::Rule { field: "relay.replicas", rule: "must not be negative" });
    }
    if spec.relay.autoscaling.as_ref().is_some_and(|scaling| scaling.min_replicas > scaling.max_replicas) {
        problems.push(SpecProblem::Rule {
            field: "relay.autoscaling",
            rule: "minReplicas must not be above maxReplicas",
        });
    }
    if spec.relay.autoscaling.is_some() && !spec.relay.requests_cpu() {
        problems.push(SpecProblem::Rule {
            field: "relay",
            rule: "autoscaling needs resources.requests.cpu: the target is a percentage of it",
        });
    }
    problems
}

/// Whether NAME-relay is a DNS label (RFC 1035), as the name of a Service must be.
fn is_service_name(route: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    route.len() <= 56
        && route.starts_with(|first: char| first.is_ascii_lowercase())
        && route.bytes().all(is_legal)
}

fn note<T>(problems: &mut Vec<SpecProblem>, result: Result<T, Vec<SpecProblem>>) -> Option<T> {
    result.map_err(|found| problems.extend(found)).ok()
}

/// The table that the relays of a route serve.
pub fn routing_table(spec: &PresenceRouteSpec) -> Result<RoutingTable, Vec<SpecProblem>> {
    table_with(spec, Condition::compile_within)
}

/// The conditions of a route, in the order in which they are compiled.
pub fn conditions(spec: &PresenceRouteSpec) -> impl Iterator<Item = &str> {
    spec.routes.iter().filter_map(|route| route.when.as_deref())
}

/// The table with what `compile` makes of its conditions.
fn table_with<When: Serialize>(
    spec: &PresenceRouteSpec,
    compile: impl Fn(&str, &mut Budget) -> Result<When, ConditionError>,
) -> Result<RoutingTable<When>, Vec<SpecProblem>> {
    let mut problems = Vec::new();
    let mut routes = Vec::with_capacity(spec.routes.len());
    let mut budget = Budget::default();
    for (index, route) in spec.routes.iter().enumerate() {
        match checked_route(route, default_key(spec), |when| compile(when, &mut budget)) {
            Ok(route) => routes.push(route),
            Err((field, cause)) => {
                let is_over_budget =
                    matches!(&cause, RoutingError::Condition(cause) if cause.is_over_budget());
                problems.push(SpecProblem::Routing { field: format!("routes[{index}].{field}"), cause });
                if is_over_budget {
                    break;
                }
            }
        }
    }
    let unmatched = note(&mut problems, unmatched_of(spec).map_err(|problem| vec![problem]));
    match (unmatched, problems.is_empty()) {
        (Some(unmatched), true) => {
            let wrong = |cause| vec![SpecProblem::Routing { field: "routes".into(), cause }];
            let table = RoutingTable::new(routes, unmatched).map_err(wrong)?;
            match table.to_yaml().map_err(wrong)?.len() {
                bytes if bytes > MAX_TABLE_BYTES => Err(vec![SpecProblem::TableTooLarge(bytes)]),
                _ => Ok(table),
            }
        }
        _ => Err(problems),
    }
}

fn checked_route<When>(
    route: &spec::Route,
    default_key: RecordKey,
    compile: impl FnOnce(&str) -> Result<When, ConditionError>,
) -> Result<Route<When>, (&'static str, RoutingError)> {
    // First, so that what is left of the budget for the next does not depend on the other fields.
    let when = route.when.as_deref().map(compile).transpose();
    Ok(Route {
        event_type: EventTypePattern::try_from(route.event_type.clone())
            .map_err(|cause| ("eventType", cause))?,
        when: when.map_err(|cause| ("when", cause.into()))?,
        topic: TopicName::try_from(route.topic.clone()).map_err(|cause| ("topic", cause))?,
        key: match &route.key {
            Some(key) => RecordKey::try_from(key.clone()).map_err(|cause| ("key", cause))?,
            None => default_key,
        },
        content_mode: route.content_mode,
    })
}

/// The key of a route that names none: the user where events have one, which is not so of a webhook's.
fn default_key(spec: &PresenceRouteSpec) -> RecordKey {
    if spec.source.amazon_event_bridge.is_some() { RecordKey::Subject } else { RecordKey::default() }
}

/// What becomes of an unmatched event. An event from a queue has no sender that waits for an answer: it is dropped and
/// counted instead of rejected.
fn unmatched_of(spec: &PresenceRouteSpec) -> Result<Unmatched, SpecProblem> {
    let is_pulled = spec.source.amazon_event_bridge.as_ref().is_some_and(|source| source.sqs.is_some());
    match unmatched(&spec.unmatched)? {
        Unmatched::Reject { .. } if is_pulled && spec.unmatched.status.is_some() => Err(SpecProblem::Rule {
            field: "unmatched.status",
            rule: "can only be set for a source that is called, which source.amazonEventBridge.sqs is not",
        }),
        Unmatched::Reject { include_filtered, invalid, .. } if is_pulled => {
            Ok(Unmatched::Drop { include_filtered, invalid })
        }
        unmatched => Ok(unmatched),
    }
}

fn unmatched(unmatched: &spec::Unmatched) -> Result<Unmatched, SpecProblem> {
    let topic = |field: &str, name: &String| {
        TopicName::try_from(name.clone())
            .map_err(|cause| SpecProblem::Routing { field: format!("unmatched.{field}"), cause })
    };
    let rule = |rule| Err(SpecProblem::Rule { field: "unmatched", rule });
    let include_filtered = unmatched.include_filtered;
    let invalid = match &unmatched.invalid {
        Some(invalid) => Some(InvalidEvents { topic: topic("invalid.topic", &invalid.topic)? }),
        None => None,
    };
    match (unmatched.action, unmatched.status, &unmatched.topic) {
        (UnmatchedAction::Reject, status, None) => {
            let status = u16::try_from(status.unwrap_or(404)).unwrap_or(0);
            RejectStatus::try_from(status)
                .map(|status| Unmatched::Reject { status, include_filtered, invalid })
                .map_err(|cause| SpecProblem::Routing { field: "unmatched.status".into(), cause })
        }
        (UnmatchedAction::Drop, None, None) => Ok(Unmatched::Drop { include_filtered, invalid }),
        (UnmatchedAction::DeadLetter, None, Some(name)) => {
            Ok(Unmatched::DeadLetter { topic: topic("topic", name)?, include_filtered, invalid })
        }
        (UnmatchedAction::DeadLetter, _, None) => rule("topic must be set when action is DeadLetter"),
        (UnmatchedAction::Reject | UnmatchedAction::Drop, _, Some(_)) => {
            rule("topic can only be set when action is DeadLetter")
        }
        (UnmatchedAction::Drop | UnmatchedAction::DeadLetter, Some(_), _) => {
            rule("status can only be set when action is Reject")
        }
    }
}

/// The limits of a relay: those that the manifest sets, and the defaults of the others.
fn limits(spec: &PresenceRouteSpec) -> Result<Limits, Vec<SpecProblem>> {
    let set = &spec.relay.limits;
    let webhook = spec.source.webhook.as_ref();
    let mut problems = Vec::new();
    let mut set_to = |field, value: Option<i32>, least: i32| {
        let value = value?;
        if value < least {
            problems.push(SpecProblem::Limit { field, value, least });
        }
        u32::try_from(value).ok()
    };
    let max_body_bytes = set_to("relay.limits.maxBodyBytes", set.max_body_bytes, 1);
    let idle_timeout_ms = set_to("relay.limits.idleTimeoutMs", set.idle_timeout_ms, 1);
    let dedupe_max_ids = set_to("relay.limits.dedupeMaxIds", set.dedupe_max_ids, 0);
    let dedupe_window_ms = set_to("relay.limits.dedupeWindowMs", set.dedupe_window_ms, 0);
    let max_event_age_seconds = set_to(
        "source.webhook.maxEventAgeSeconds",
        webhook.and_then(|webhook| webhook.max_event_age_seconds),
        1,
    );
    if !problems.is_empty() {
        return Err(problems);
    }
    let defaults = Limits::default();
    Ok(Limits {
        max_body_bytes: max_body_bytes.map_or(defaults.max_body_bytes, |bytes| bytes as usize),
        idle_timeout_ms: idle_timeout_ms.map_or(defaults.idle_timeout_ms, u64::from),
        dedupe_max_ids: dedupe_max_ids.map_or(defaults.dedupe_max_ids, |ids| ids as usize),
        dedupe_window_ms: dedupe_window_ms.map_or(defaults.dedupe_window_ms, u64::from),
        max_event_age_ms: max_event_age_seconds.map(|seconds| u64::from(seconds) * 1_000),
        ..defaults
    })
}

/// The source that the spec names.
#[derive(Clone, Copy)]
enum OneSource<'s> {
    Webhook(&'s Webhook),
    AmazonEventBridge(&'s AmazonEventBridge),
}

impl OneSource<'_> {
    fn is_pushed_to(self) -> bool {
        match self {
            Self::Webhook(_) => true,
            Self::AmazonEventBridge(event_bridge) => event_bridge.api_destination.is_some(),
        }
    }
}

fn one_source(source: &spec::Source) -> Result<OneSource<'_>, Vec<SpecProblem>> {
    let rule = |field, rule| Err(vec![SpecProblem::Rule { field, rule }]);
    match (&source.webhook, &source.amazon_event_bridge) {
        (Some(webhook), None) => Ok(OneSource::Webhook(webhook)),
        (None, Some(event_bridge))
            if event_bridge.sqs.is_some() == event_bridge.api_destination.is_some() =>
        {
            rule("source.amazonEventBridge", "exactly one of sqs and apiDestination must be set")
        }
        (None, Some(event_bridge)) => Ok(OneSource::AmazonEventBridge(event_bridge)),
        (None, None) | (Some(_), Some(_)) => {
            rule("source", "exactly one source must be set: webhook or amazonEventBridge")
        }
    }
}

/// What Genesys Cloud is to hold for the source.
fn source_model(
    source: OneSource<'_>,
    spec: &PresenceRouteSpec,
    namespace: &str,
    name: &str,
    url: Option<&Url>,
) -> Result<SourceModel, Vec<SpecProblem>> {
    match source {
        OneSource::Webhook(webhook) => Ok(SourceModel::Webhook(WebhookModel {
            signature_header: webhook.signature_header.clone(),
            event_bridges_path: webhook.event_bridges_path.clone(),
            registration: RegistrationSpec {
                name: webhook.name.clone().unwrap_or_else(|| format!("{namespace}/{name}")),
                // Without one, the problem is the endpoint's.
                url: url.map(Url::to_string).unwrap_or_default(),
                enabled: !spec.suspend,
                event_types: event_types(webhook, &spec.routes)?,
                retry_policy: webhook.retry_policy.clone(),
            },
        })),
        OneSource::AmazonEventBridge(event_bridge) => {
            let problems = event_bridge_problems(event_bridge, &spec.routes, namespace, name);
            if !problems.is_empty() {
                return Err(problems);
            }
            let topics: BTreeSet<String> = event_bridge.topics.iter().map(|topic| topic.0.clone()).collect();
            let event_source_suffix = event_bridge.event_source_suffix(namespace, name);
            Ok(SourceModel::AmazonEventBridge(EventBridgeModel {
                integration: IntegrationSpec {
                    name: event_source_suffix.clone(),
                    event_source_suffix,
                    aws_account_id: event_bridge.aws_account_id.clone(),
                    aws_region: event_bridge.aws_region.clone(),
                    topics: topics.into_iter().collect(),
                    enabled: !spec.suspend,
                },
                mode: event_bridge.integration,
            }))
        }
    }
}

fn event_bridge_problems(
    event_bridge: &AmazonEventBridge,
    routes: &[spec::Route],
    namespace: &str,
    name: &str,
) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    if event_bridge.event_source_suffix(namespace, name).len() > 64 {
        problems.push(SpecProblem::Rule {
            field: "source.amazonEventBridge.eventSourceSuffix",
            rule: "must be set: NAMESPACE-NAME has more than the 64 characters that Genesys Cloud takes",
        });
    }
    let topics = || event_bridge.topics.iter().map(|topic| topic.0.as_str());
    let is_sent = |route: &spec::Route| match route.event_type.strip_suffix('*') {
        Some(prefix) => topics().any(|topic| topic.starts_with(prefix)),
        None => topics().any(|topic| topic == route.event_type),
    };
    let unsent = routes.iter().enumerate().filter(|(_, route)| !is_sent(route));
    problems.extend(
        unsent.map(|(index, route)| SpecProblem::UnsentEventType {
            index,
            event_type: route.event_type.clone(),
        }),
    );
    problems
}

/// How the relay receives the source's events.
fn source_config(source: OneSource<'_>) -> SourceConfig {
    let OneSource::AmazonEventBridge(event_bridge) = source else { return SourceConfig::Webhook };
    if let Some(destination) = &event_bridge.api_destination {
        return SourceConfig::ApiDestination(ApiDestinationConfig { header: destination.header.clone() });
    }
    let Some(queue) = &event_bridge.sqs else { return SourceConfig::Webhook };
    let file = |key: &String| format!("{}/{key}", paths::AWS_DIR).into();
    SourceConfig::Sqs(SqsConfig {
        queue_url: queue.queue_url.clone(),
        region: queue.region.clone().unwrap_or_else(|| event_bridge.aws_region.clone()),
        endpoint_url: queue.endpoint_url.clone(),
        credentials: queue.credentials_secret_ref.as_ref().map(|access_key| AwsCredentialFiles {
            access_key_id_file: file(&access_key.access_key_id_key),
            secret_access_key_file: file(&access_key.secret_access_key_key),
            session_token_file: Some(file(&access_key.session_token_key)),
        }),
    })
}

fn aws_mount(source: OneSource<'_>) -> Option<SecretMount> {
    let OneSource::AmazonEventBridge(event_bridge) = source else { return None };
    let access_key = event_bridge.sqs.as_ref()?.credentials_secret_ref.as_ref()?;
    Some(SecretMount { volume: "aws", secret: access_key.name.clone(), directory: paths::AWS_DIR })
}

fn reserved_name(route: &PresenceRoute) -> Option<SpecProblem> {
    let name = route.spec.source.webhook.as_ref()?.name.as_ref()?;
    let namespace = reserved_for_another(name, route)?;
    Some(SpecProblem::ReservedName {
        name: name.clone(),
        namespace: namespace.to_owned(),
        own: route.namespace().unwrap_or_default(),
    })
}

/// The references to the Secrets that the operator writes under these names.
fn operators_secrets(spec: &PresenceRouteSpec, names: &[String]) -> Vec<SpecProblem> {
    let named = secret_names(spec).filter(|(_, named)| names.iter().any(|name| name == named));
    named.map(|(field, name)| SpecProblem::OperatorsSecret { field, name: name.to_owned() }).collect()
}

/// What to subscribe to: sorted, each once.
fn event_types(webhook: &Webhook, routes: &[spec::Route]) -> Result<Vec<String>, Vec<SpecProblem>> {
    let types: BTreeSet<&str> = match &webhook.event_types {
        Some(types) => types.iter().map(|event_type| event_type.0.as_str()).collect(),
        None => match routes.iter().find(|route| route.event_type.ends_with('*')) {
            Some(route) => return Err(vec![SpecProblem::EventTypes(route.event_type.clone())]),
            None => routes.iter().map(|route| route.event_type.as_str()).collect(),
        },
    };
    if let Some(wildcard) = types.iter().find(|event_type| event_type.contains('*')) {
        return Err(vec![SpecProblem::SubscribedWildcard((*wildcard).to_owned())]);
    }
    Ok(types.into_iter().map(str::to_owned).collect())
}

fn endpoint(
    source: OneSource<'_>,
    endpoint: Option<&spec::Endpoint>,
) -> Result<Option<EndpointModel>, Vec<SpecProblem>> {
    let rule = |rule| vec![SpecProblem::Rule { field: "endpoint", rule }];
    let endpoint = match (endpoint, source) {
        (Some(endpoint), source) if source.is_pushed_to() => endpoint,
        (Some(_), _) => {
            return Err(rule("must not be set: with source.amazonEventBridge.sqs nothing is called"));
        }
        (None, OneSource::Webhook(_)) => {
            return Err(rule("must be set: its url is what Genesys Cloud calls for source.webhook"));
        }
        (None, source) if source.is_pushed_to() => {
            return Err(rule("must be set: its url is what Amazon EventBridge calls for apiDestination"));
        }
        (None, _) => return Ok(None),
    };
    let url = http_url("endpoint.url", &endpoint.url);
    let exposure = match (&endpoint.ingress, &endpoint.gateway) {
        (None, None) => Ok(Exposure::Service),
        (Some(ingress), None) => Ok(Exposure::Ingress(ingress.clone())),
        (None, Some(gateway)) => Ok(Exposure::Gateway(gateway.clone())),
        (Some(_), Some(_)) => Err(rule("ingress and gateway cannot both be set")),
    };
    match (url, exposure) {
        (Ok(url), Ok(exposure)) => {
            Ok(Some(EndpointModel { url, exposure, service: endpoint.service.clone() }))
        }
        (url, exposure) => Err([url.err(), exposure.err()].into_iter().flatten().flatten().collect()),
    }
}

fn api_url(genesys: &spec::Genesys) -> Result<Url, Vec<SpecProblem>> {
    match (&genesys.region, &genesys.api_url) {
        (Some(region), None) => http_url("genesys.region", &presenceroute_core::region::api_url(region)),
        (None, Some(url)) => http_url("genesys.apiUrl", url),
        (Some(_), Some(_)) | (None, None) => Err(vec![SpecProblem::Rule {
            field: "genesys",
            rule: "exactly one of region and apiUrl must be set",
        }]),
    }
}

/// The URLs of the API and of the login service, where that is another.
fn genesys_urls(
    genesys: &spec::Genesys,
    source: OneSource<'_>,
) -> Result<(Url, Option<Url>), Vec<SpecProblem>> {
    let api_url = api_url(genesys);
    let login_url = match (&genesys.login_url, &genesys.region, source) {
        (Some(url), _, _) => http_url("genesys.loginUrl", url).map(Some),
        (None, Some(region), OneSource::AmazonEventBridge(_)) => {
            http_url("genesys.region", &presenceroute_core::region::login_url(region)).map(Some)
        }
        (None, ..) => Ok(None),
    };
    match (api_url, login_url) {
        (Ok(api_url), Ok(login_url)) => Ok((api_url, login_url)),
        (api_url, login_url) => {
            Err([api_url.err(), login_url.err()].into_iter().flatten().flatten().collect())
        }
    }
}

fn http_url(field: &'static str, text: &str) -> Result<Url, Vec<SpecProblem>> {
    parse_http_url(text).ok_or_else(|| vec![SpecProblem::Url { field, value: text.to_owned() }])
}

fn kafka_config(kafka: &Kafka) -> KafkaConfig {
    KafkaConfig {
        bootstrap_servers: kafka.bootstrap_servers.iter().map(|server| server.0.clone()).collect(),
        tls: kafka.tls.as_ref().map(|tls| KafkaTlsConfig {
            ca_file: tls
                .ca_secret_ref
                .as_ref()
                .map(|ca| format!("{}/{}", paths::KAFKA_CA_DIR, ca.key).into()),
            client_certificate: tls.client_certificate_secret_ref.as_ref().map(|client| CertificateFiles {
                certificate_file: format!("{}/{}", paths::KAFKA_CLIENT_DIR, client.certificate_key).into(),
                private_key_file: format!("{}/{}", paths::KAFKA_CLIENT_DIR, client.private_key_key).into(),
            }),
        }),
        sasl: kafka.sasl.as_ref().map(|sasl| {
            let credentials = sasl.credentials_secret_ref.as_ref();
            let file = |key: &String| format!("{}/{key}", paths::KAFKA_SASL_DIR).into();
            let is_named_by_secret = sasl.mechanism != SaslMechanism::AwsMskIam;
            KafkaSaslConfig {
                mechanism: sasl.mechanism,
                username_file: credentials.map(|credentials| file(&credentials.username_key)),
                username: credentials
                    .filter(|_| is_named_by_secret)
                    .map(|credentials| credentials.name.clone()),
                password_file: credentials.map(|credentials| file(&credentials.password_key)),
                aws_msk_iam: sasl
                    .aws_msk_iam
                    .as_ref()
                    .map(|cluster| AwsMskIamConfig { region: cluster.region.clone() }),
                oauth: sasl.oauth.as_ref().map(|oauth| KafkaOauthConfig {
                    token_endpoint_url: oauth.token_endpoint_url.clone(),
                    scope: oauth.scope.clone(),
                    extensions: extensions(oauth),
                    ca_file: oauth
                        .ca_secret_ref
                        .as_ref()
                        .map(|ca| format!("{}/{}", paths::KAFKA_OAUTH_CA_DIR, ca.key).into()),
                }),
            }
        }),
        properties: kafka.properties.clone(),
    }
}

fn extensions(oauth: &KafkaOauth) -> BTreeMap<String, String> {
    oauth.extensions.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect()
}

fn sasl_problem(sasl: &KafkaSasl) -> Option<SpecProblem> {
    let rule = |rule| Some(SpecProblem::Rule { field: "kafka.sasl", rule });
    let is_iam = sasl.mechanism == SaslMechanism::AwsMskIam;
    if is_iam != sasl.aws_msk_iam.is_some() {
        return rule("awsMskIam must be set when mechanism is AWS_MSK_IAM, and only then");
    }
    if !is_iam && sasl.credentials_secret_ref.is_none() {
        return rule("credentialsSecretRef must be set, unless mechanism is AWS_MSK_IAM");
    }
    match (sasl.mechanism, &sasl.oauth) {
        (SaslMechanism::OauthBearer, Some(oauth)) => {
            let url = http_url("kafka.sasl.oauth.tokenEndpointUrl", &oauth.token_endpoint_url);
            let url_problem = url.err().and_then(|problems| problems.into_iter().next());
            url_problem.or_else(|| extension_problem(&oauth.extensions))
        }
        (SaslMechanism::OauthBearer, None) | (_, Some(_)) => {
            rule("oauth must be set when mechanism is OAUTHBEARER, and only then")
        }
        (_, None) => None,
    }
}

/// RFC 7628, section 3.1, as far as brokers and the Kafka client take it.
fn extension_problem(extensions: &BTreeMap<String, SaslExtensionValue>) -> Option<SpecProblem> {
    let rule = |rule| Some(SpecProblem::Rule { field: "kafka.sasl.oauth.extensions", rule });
    let is_name = |name: &String| {
        (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphabetic())
            && name != "auth"
    };
    let is_value = |value: &SaslExtensionValue| {
        (1..=256).contains(&value.0.len()) && value.0.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    if extensions.len() > 16 {
        return rule("must have at most 16 extensions");
    }
    if !extensions.keys().all(is_name) {
        return rule(
            "the name of an extension must have 1 to 64 letters, and not be auth, which is the token's",
        );
    }
    if !extensions.values().all(is_value) {
        return rule("the value of an extension must have 1 to 256 printable ASCII characters");
    }
    None
}

fn kafka_mounts(kafka: &Kafka) -> impl Iterator<Item = SecretMount> {
    let tls = kafka.tls.as_ref();
    let ca = tls.and_then(|tls| tls.ca_secret_ref.as_ref()).map(|ca| SecretMount {
        volume: "kafka-ca",
        secret: ca.name.clone(),
        directory: paths::KAFKA_CA_DIR,
    });
    let client = tls.and_then(|tls| tls.client_certificate_secret_ref.as_ref()).map(|client| SecretMount {
        volume: "kafka-client",
        secret: client.name.clone(),
        directory: paths::KAFKA_CLIENT_DIR,
    });
    let credentials = kafka.sasl.as_ref().and_then(|sasl| sasl.credentials_secret_ref.as_ref());
    let sasl = credentials.map(|credentials| SecretMount {
        volume: "kafka-sasl",
        secret: credentials.name.clone(),
        directory: paths::KAFKA_SASL_DIR,
    });
    let oauth_ca =
        kafka.sasl.as_ref().and_then(|sasl| sasl.oauth.as_ref()?.ca_secret_ref.as_ref()).map(|ca| {
            SecretMount {
                volume: "kafka-oauth-ca",
                secret: ca.name.clone(),
                directory: paths::KAFKA_OAUTH_CA_DIR,
            }
        });
    [ca, client, sasl, oauth_ca].into_iter().flatten()
}

fn tls_files() -> CertificateFiles {
    CertificateFiles {
        certificate_file: format!("{}/{}", paths::TLS_DIR, TlsSecretRef::CERTIFICATE_KEY).into(),
        private_key_file: format!("{}/{}", paths::TLS_DIR, TlsSecretRef::PRIVATE_KEY_KEY).into(),
    }
}

fn tls_mount(secret: String) -> SecretMount {
    SecretMount { volume: "tls", secret, directory: paths::TLS_DIR }
}
