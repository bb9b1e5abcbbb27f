//! `relay.yaml`: the settings that a relay pod reads once, at its start. What changes while it runs (routes, secrets) is
//! in files of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::routing::RecordKey;
use crate::source;

/// The file's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelayConfig {
    /// How events come to the relay.
    #[serde(default, skip_serializing_if = "SourceConfig::is_webhook")]
    pub source: SourceConfig,
    /// The path that events are posted to.
    #[serde(default = "default_path")]
    pub path: String,
    /// Further paths that events are posted to, of endpoints that Genesys Cloud may still call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_paths: Vec<String>,
    /// The header that carries an event's signature.
    #[serde(default = "signature_header")]
    pub signature_header: String,
    /// The Kafka cluster.
    pub kafka: KafkaConfig,
    /// Bounds on time and memory.
    #[serde(default)]
    pub limits: Limits,
    /// TLS on the port that events are posted to. Without it the relay speaks plain HTTP, for a proxy in front that
    /// speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<CertificateFiles>,
    /// The port that speaks TLS while the relay's own port speaks plain HTTP: one of them is of an endpoint that Genesys
    /// Cloud may still call. Without it, TLS is spoken on the relay's own port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_port: Option<u16>,
    /// The PresenceRoute that the relay serves, NAMESPACE/NAME, for its log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
}

/// The default path.
pub fn default_path() -> String {
    "/eventbridge/presence".into()
}

/// The header that carries an event's signature unless the manifest names another.
pub fn signature_header() -> String {
    "X-Genesys-Event-Signature".into()
}

/// How events come to the relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SourceConfig {
    /// Genesys Cloud posts signed events to `path`.
    #[default]
    Webhook,
    /// An API destination of Amazon EventBridge posts envelopes to `path`, with an API key. The active keys are in the
    /// directory of secrets, as signing secrets are.
    ApiDestination(ApiDestinationConfig),
    /// The relay receives envelopes of Amazon EventBridge from an Amazon SQS queue.
    Sqs(SqsConfig),
}

impl SourceConfig {
    /// Whether it is the default.
    #[must_use]
    pub fn is_webhook(&self) -> bool {
        *self == Self::Webhook
    }

    /// What it differs in from other sources.
    #[must_use]
    pub fn kind(&self) -> source::Kind {
        match self {
            Self::Webhook => source::WEBHOOK,
            Self::ApiDestination(_) => source::AMAZON_EVENT_BRIDGE_API_DESTINATION,
            Self::Sqs(_) => source::AMAZON_EVENT_BRIDGE_SQS,
        }
    }

    /// The key of records whose route names none: what the event is about, where events of the source say so.
    #[must_use]
    pub fn default_key(&self) -> RecordKey {
        match self {
            Self::Webhook => RecordKey::Id,
            Self::ApiDestination(_) | Self::Sqs(_) => RecordKey::Subject,
        }
    }
}

/// An API destination of Amazon EventBridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiDestinationConfig {
    /// The header that carries the API key.
    #[serde(default = "api_key_header")]
    pub header: String,
}

/// The header that carries an API key unless the manifest names another.
pub fn api_key_header() -> String {
    "X-Api-Key".into()
}

/// An Amazon SQS queue that holds Amazon EventBridge's envelopes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqsConfig {
    /// The queue's URL.
    pub queue_url: String,
    /// The queue's AWS region.
    pub region: String,
    /// The API of a server that is compatible with Amazon SQS. Default: that of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// An access key, where the pods have no IAM role (IRSA, EKS Pod Identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<AwsCredentialFiles>,
}

/// The files with an AWS access key. They may change while the relay runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsCredentialFiles {
    /// The id of the access key.
    pub access_key_id_file: PathBuf,
    /// The secret of the access key.
    pub secret_access_key_file: PathBuf,
    /// The session token of temporary credentials. The file need not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_file: Option<PathBuf>,
}

/// How the relay finds Kafka and authenticates. Secrets stay in files, which may change while the relay runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to find the cluster by, each HOST:PORT.
    pub bootstrap_servers: Vec<String>,
    /// TLS, when the brokers want it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTlsConfig>,
    /// SASL, when the brokers want it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSaslConfig>,
    /// Further librdkafka properties; see [`refused_property`](crate::kafka_properties::refused_property).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// TLS towards the brokers, by files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaTlsConfig {
    /// The CA of the brokers. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The relay's certificate and private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateFiles>,
}

/// A certificate, with the chain that belongs to it, and its private key, each in PEM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate.
    pub certificate_file: PathBuf,
    /// The private key, unencrypted.
    pub private_key_file: PathBuf,
}

/// SASL towards the brokers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaSaslConfig {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// The file with the user's name. With AWS_MSK_IAM, the id of an access key, where the pods have no IAM role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    /// The user's name where that file does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The file with the password; with AWS_MSK_IAM, the secret of that access key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Where tokens come from with OAUTHBEARER; user and password are then the OAuth client's id and secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<KafkaOauthConfig>,
    /// Where the cluster is, with AWS_MSK_IAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_msk_iam: Option<AwsMskIamConfig>,
}

/// An Amazon MSK cluster with IAM access control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsMskIamConfig {
    /// The cluster's AWS region.
    pub region: String,
}

/// The SASL mechanisms that the relay speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SaslMechanism {
    /// RFC 4616; only sensible together with TLS.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677 with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 7677 with SHA-512, what a Strimzi KafkaUser gets.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// RFC 7628, with tokens of an OAuth 2.0 server; only sensible together with TLS.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
    /// Amazon MSK's IAM access control: OAUTHBEARER with tokens that the relay signs with AWS credentials.
    #[serde(rename = "AWS_MSK_IAM")]
    AwsMskIam,
}

impl SaslMechanism {
    /// What brokers call it, as librdkafka's `sasl.mechanism` takes it.
    pub fn sasl_name(self) -> &'static str {
        match self {
            Self::AwsMskIam => Self::OauthBearer.as_str(),
            other => other.as_str(),
        }
    }

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
            Self::AwsMskIam => "AWS_MSK_IAM",
        }
    }
}

/// A token endpoint, asked by the client-credentials grant (RFC 6749, section 4.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaOauthConfig {
    /// Its URL.
    pub token_endpoint_url: String,
    /// The scope to ask for. Default: whatever the server gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// SASL extensions that go to the brokers with each token (RFC 7628, section 3.1), by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
    /// The CA of the token endpoint, in PEM. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Bounds. Times are in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// The largest event.
    pub max_body_bytes: usize,
    /// How long a sender may take to send an event.
    pub body_timeout_ms: u64,
    /// How long Kafka may take to acknowledge an event, with all retries. The sender waits this long, so it stays
    /// below the 5 s after which Amazon EventBridge gives up.
    pub publish_timeout_ms: u64,
    /// How long the relay keeps an event in flight that it has given to the Kafka client, also after its sender was
    /// answered 503. Kafka may have it already, so a repetition waits for its outcome instead of being published
    /// again. Not below `publishTimeoutMs`. Kafka's own clients call it delivery.timeout.ms.
    pub delivery_timeout_ms: u64,
    /// How many deliveries, an event to a topic each, wait for Kafka at once; beyond, 503.
    pub max_in_flight: usize,
    /// How many bytes of events are held at once; beyond, 503.
    pub max_in_flight_bytes: usize,
    /// How many acknowledged events the dedupe window holds at most.
    pub dedupe_max_ids: usize,
    /// How long the dedupe window is: a repetition of an event that was acknowledged within it is not published again.
    pub dedupe_window_ms: u64,
    /// How long a connection may be without a request. Longer than common proxies keep one (nginx and AWS ALB 60 s,
    /// Traefik 90 s, Google Cloud 600 s), so that the proxy closes first: an event that a proxy sends into a connection
    /// that the relay is closing is a 502.
    pub idle_timeout_ms: u64,
    /// How long the relay keeps answering after SIGTERM, so that every proxy has removed it.
    pub drain_ms: u64,
    /// How old the `timestamp` of an event may be; older ones are rejected. Without it, any age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_event_age_ms: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 1 << 20,
            body_timeout_ms: 10_000,
            publish_timeout_ms: 4_000,
            delivery_timeout_ms: 120_000,
            max_in_flight: 4_096,
            max_in_flight_bytes: 64 << 20,
            dedupe_max_ids: 100_000,
            dedupe_window_ms: 600_000,
            idle_timeout_ms: 620_000,
            drain_ms: 5_000,
            max_event_age_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_are_enough() {
        let config: RelayConfig = serde_saphyr::from_str("kafka: {bootstrapServers: [kafka:9092]}").unwrap();
        assert_eq!(config.path, "/eventbridge/presence");
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let error =
            serde_saphyr::from_str::<RelayConfig>("kafka: {bootstrapServer: [kafka:9092]}").unwrap_err();
        assert!(error.to_string().contains("bootstrapServer"), "{error}");
    }
}
