//! The second step: the spec and what it points at become a [`Model`] that cannot be wrong, or a list of problems.
//!
//! Pure. The later steps build from the model alone and check nothing again.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use presenceroute_core::condition::{Budget, Condition};
use presenceroute_core::genesys_api::{ApiEndpoint, RegistrationSpec, TokenRequest};
use presenceroute_core::kafka_properties::{refused_property, wrong_value};
use presenceroute_core::relay_config::{
    AwsMskIamConfig, CertificateFiles, KafkaConfig, KafkaOauthConfig, KafkaSaslConfig, KafkaTlsConfig,
    Limits, RelayConfig, SaslMechanism,
};
use presenceroute_core::routing::{
    EventTypePattern, RecordKey, RejectStatus, Route, RoutingError, RoutingTable, TopicName, Unmatched,
};
use presenceroute_core::url::parse_http_url;
use presenceroute_crds::references::TlsSecretRef;
use presenceroute_crds::spec::{
    self, DeletionPolicy, Kafka, KafkaOauth, KafkaSasl, Relay, SaslExtensionValue, ServiceTemplate,
    UnmatchedAction, Webhook,
};
use presenceroute_crds::{PresenceRoute, PresenceRouteSpec};
use secrecy::SecretString;
use url::Url;

use crate::admission::is_subdomain;
use crate::dereference::{OAuthClient, References, SecretProblem, secret_names};
use crate::field::FieldPath;
use crate::registration_name::reserved_for_another;
use crate::rotation::secret_name;

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
    /// What Genesys Cloud calls.
    pub endpoint: EndpointModel,
    /// The routing table, reloaded while the relay runs.
    pub table: RoutingTable,
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
}

/// A registration that posts signed events to the endpoint.
pub struct WebhookModel {
    /// The header with an event's signature.
    pub signature_header: String,
    /// The path of the EventBridge collection.
    pub event_bridges_path: String,
    /// What is to be registered.
    pub registration: RegistrationSpec,
    /// The secret that events are signed with.
    pub signing_secret: Result<SecretString, SecretProblem>,
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
    /// Every Secret that is not as it should be.
    pub fn secret_problems(&self) -> Vec<&SecretProblem> {
        let GenesysModel { oauth_client, ca_pem, .. } = &self.genesys;
        let SourceModel::Webhook(webhook) = &self.source;
        let ca_problem = ca_pem.as_ref().and_then(|ca| ca.as_ref().err());
        let of_calls = oauth_client.as_ref().err().into_iter().chain(ca_problem);
        of_calls.chain(webhook.signing_secret.as_ref().err()).chain(&self.mount_problems).collect()
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
    #[error("spec.{field}: {value:?} is not an http or https URL without user, query and fragment")]
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
        "spec.{field}: {name:?} is the Secret that the operator keeps the route's signing secrets in; use a Secret of \
         another name"
    )]
    OperatorsSecret {
        /// Where.
        field: &'static str,
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
        field: &'static str,
        /// The name.
        name: String,
    },
    /// A table that no ConfigMap holds.
    #[error(
        "spec.routes: the routing table has {0} bytes, and a ConfigMap holds {MAX_TABLE_BYTES}; shorten the conditions, \
         or make several PresenceRoutes of it"
    )]
    TableTooLarge(usize),
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
            Self::Url { field, .. } | Self::Rule { field, .. } | Self::OperatorsSecret { field, .. } => {
                FieldPath::parse(&format!("spec.{field}"))
            }
            Self::EventTypes(_) | Self::SubscribedWildcard(_) => {
                spec.child("source").child("webhook").child("eventTypes")
            }
            Self::ReservedName { .. } => spec.child("source").child("webhook").child("name"),
            Self::Name(_) => FieldPath::parse("metadata.name"),
            Self::SecretName { field, .. } => FieldPath::parse(&format!("spec.{field}")),
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
    let mut problems = Vec::new();
    let spec = &route.spec;
    let namespace = route.namespace().unwrap_or_else(|| "default".into());
    let name = route.name_any();

    let table = note(&mut problems, routing_table(spec));
    let webhook = note(&mut problems, webhook(&spec.source));
    let event_types = webhook.and_then(|webhook| note(&mut problems, event_types(webhook, &spec.routes)));
    let endpoint = note(&mut problems, endpoint(spec.endpoint.as_ref()));
    let api_url = note(&mut problems, api_url(&spec.genesys));
    problems.extend(reserved_name(route));
    problems.extend(operators_secret(spec, &secret_name(&name)));
    problems.extend((!is_service_name(&name)).then(|| SpecProblem::Name(name.clone())));
    problems.extend(broken_rules(spec));

    let (Some(table), Some((webhook, signing_secret)), Some(event_types), Some(endpoint), Some(api_url), []) =
        (table, webhook.zip(references.signing_secret), event_types, endpoint, api_url, problems.as_slice())
    else {
        return Err(problems);
    };
    Ok(Model {
        config: RelayConfig {
            path: endpoint.url.path().to_owned(),
            signature_header: webhook.signature_header.clone(),
            kafka: kafka_config(&spec.kafka),
            limits: Limits::default(),
            tls: tls_files(&spec.relay),
            route: Some(format!("{namespace}/{name}")),
        },
        mounts: kafka_mounts(&spec.kafka).chain(tls_mount(&spec.relay)).collect(),
        mount_problems: references.mounted,
        genesys: GenesysModel {
            api_url,
            token_path: spec.genesys.api.token_path.clone(),
            token_request: spec.genesys.api.token_request,
            ca_pem: references.genesys_ca,
            oauth_client: references.oauth_client,
        },
        source: SourceModel::Webhook(WebhookModel {
            signature_header: webhook.signature_header.clone(),
            event_bridges_path: webhook.event_bridges_path.clone(),
            registration: RegistrationSpec {
                name: webhook.name.clone().unwrap_or_else(|| format!("{namespace}/{name}")),
                url: endpoint.url.to_string(),
                enabled: !spec.suspend,
                event_types,
                retry_policy: webhook.retry_policy.clone(),
            },
            signing_secret,
        }),
        uid: route.uid().unwrap_or_default(),
        suspended: spec.suspend,
        deletion_policy: spec.deletion_policy,
        relay: spec.relay.clone(),
        namespace,
        name,
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
    let mut problems = Vec::new();
    let mut routes = Vec::with_capacity(spec.routes.len());
    let mut budget = Budget::default();
    for (index, route) in spec.routes.iter().enumerate() {
        match checked_route(route, &mut budget) {
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
    let unmatched = note(&mut problems, unmatched(&spec.unmatched).map_err(|problem| vec![problem]));
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

fn checked_route(route: &spec::Route, budget: &mut Budget) -> Result<Route, (&'static str, RoutingError)> {
    Ok(Route {
        event_type: EventTypePattern::try_from(route.event_type.clone())
            .map_err(|cause| ("eventType", cause))?,
        when: match &route.when {
            Some(source) => {
                Some(Condition::compile_within(source, budget).map_err(|cause| ("when", cause.into()))?)
            }
            None => None,
        },
        topic: TopicName::try_from(route.topic.clone()).map_err(|cause| ("topic", cause))?,
        key: match &route.key {
            Some(key) => RecordKey::try_from(key.clone()).map_err(|cause| ("key", cause))?,
            None => RecordKey::default(),
        },
        content_mode: route.content_mode,
    })
}

fn unmatched(unmatched: &spec::Unmatched) -> Result<Unmatched, SpecProblem> {
    let topic = |name: &String| {
        TopicName::try_from(name.clone())
            .map_err(|cause| SpecProblem::Routing { field: "unmatched.topic".into(), cause })
    };
    let rule = |rule| Err(SpecProblem::Rule { field: "unmatched", rule });
    let include_filtered = unmatched.include_filtered;
    match (unmatched.action, unmatched.status, &unmatched.topic) {
        (UnmatchedAction::Reject, status, None) => {
            let status = u16::try_from(status.unwrap_or(404)).unwrap_or(0);
            RejectStatus::try_from(status)
                .map(|status| Unmatched::Reject { status, include_filtered })
                .map_err(|cause| SpecProblem::Routing { field: "unmatched.status".into(), cause })
        }
        (UnmatchedAction::Drop, None, None) => Ok(Unmatched::Drop { include_filtered }),
        (UnmatchedAction::DeadLetter, None, Some(name)) => {
            Ok(Unmatched::DeadLetter { topic: topic(name)?, include_filtered })
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

fn webhook(source: &spec::Source) -> Result<&Webhook, Vec<SpecProblem>> {
    source.webhook.as_ref().ok_or_else(|| {
        vec![SpecProblem::Rule { field: "source", rule: "exactly one source must be set: webhook" }]
    })
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

/// The references to the Secret that the operator writes under this name.
fn operators_secret(spec: &PresenceRouteSpec, name: &str) -> Vec<SpecProblem> {
    let named = secret_names(spec).filter(|(_, named)| *named == name);
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

fn endpoint(endpoint: Option<&spec::Endpoint>) -> Result<EndpointModel, Vec<SpecProblem>> {
    let rule = |rule| vec![SpecProblem::Rule { field: "endpoint", rule }];
    let endpoint = endpoint
        .ok_or_else(|| rule("must be set: its url is what Genesys Cloud calls for source.webhook"))?;
    let url = http_url("endpoint.url", &endpoint.url);
    let exposure = match (&endpoint.ingress, &endpoint.gateway) {
        (None, None) => Ok(Exposure::Service),
        (Some(ingress), None) => Ok(Exposure::Ingress(ingress.clone())),
        (None, Some(gateway)) => Ok(Exposure::Gateway(gateway.clone())),
        (Some(_), Some(_)) => Err(rule("ingress and gateway cannot both be set")),
    };
    match (url, exposure) {
        (Ok(url), Ok(exposure)) => Ok(EndpointModel { url, exposure, service: endpoint.service.clone() }),
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

fn tls_files(relay: &Relay) -> Option<CertificateFiles> {
    relay.tls.as_ref().map(|_| CertificateFiles {
        certificate_file: format!("{}/{}", paths::TLS_DIR, TlsSecretRef::CERTIFICATE_KEY).into(),
        private_key_file: format!("{}/{}", paths::TLS_DIR, TlsSecretRef::PRIVATE_KEY_KEY).into(),
    })
}

fn tls_mount(relay: &Relay) -> Option<SecretMount> {
    relay.tls.as_ref().map(|tls| SecretMount {
        volume: "tls",
        secret: tls.certificate_secret_ref.name.clone(),
        directory: paths::TLS_DIR,
    })
}
