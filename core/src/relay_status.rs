//! What a relay answers on `GET /status` of its admin port, and the operator reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One relay's own account of itself. It never holds a secret or a part of an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayStatus {
    /// The relay's version.
    pub version: String,
    /// The routing table that is being served.
    pub routing: RoutingReport,
    /// What senders may prove themselves with: signing secrets or API keys. Without senders, none.
    pub secrets: SecretsReport,
    /// The certificate of the port that events are posted to, where it speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReport>,
    /// How many signatures were verified and rejected. Absent from relays older than this field.
    #[serde(default)]
    pub signatures: SignaturesReport,
    /// The queue that events are received from, where the source has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueReport>,
    /// The connection to Kafka.
    pub kafka: KafkaReport,
    /// Topics that the table names and Kafka does not have, sorted.
    #[serde(default)]
    pub missing_topics: Vec<String>,
    /// Topics that the table names and the relay is not authorized to write to, sorted. Absent from relays older
    /// than this field.
    #[serde(default)]
    pub forbidden_topics: Vec<String>,
    /// Events that are being worked on now.
    pub in_flight: u64,
    /// Whether the relay is on its way out.
    pub draining: bool,
    /// The level of the log of the relay's process, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

/// The routing table that is being served, and what is wrong with a newer one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingReport {
    /// The revision that is being served.
    pub revision: String,
    /// How many routes it has.
    pub routes: usize,
    /// Why the newest file is not served, when it does not compile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The signing secrets or API keys that are being accepted, and what is wrong with newer ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretsReport {
    /// The revision that came with the secrets, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many secrets are active.
    pub active: usize,
    /// How often senders have proved themselves with each of them since it was loaded, by the name of its file. Absent from
    /// relays older than this field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub used: BTreeMap<String, u64>,
    /// Why newer files are not used, when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The certificate that is being served, and what is wrong with a newer one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsReport {
    /// When it expires (RFC 3339); absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Why newer files are not used, when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Signatures or API keys that were checked since the relay started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignaturesReport {
    /// Made with an active secret, or an active API key, whatever became of the event later.
    pub accepted: u64,
    /// Not so: answered 403, or 401 to an API key.
    pub refused: u64,
}

/// The queue that events are received from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueReport {
    /// Whether the last receive was answered.
    pub readable: bool,
    /// What the newest failure was, while it lasts: the code of the service, who was refused what, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many messages were received since the relay started.
    pub received: u64,
    /// How many of them were deleted, after Kafka acknowledged their events.
    pub deleted: u64,
    /// How many of them were given back to the queue.
    pub returned: u64,
    /// How many seconds ago the oldest message of the last receive was sent to the queue; 0 after an empty receive.
    pub oldest_age_seconds: u64,
    /// When a message was received last (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received: Option<String>,
}

/// The connection to Kafka.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaReport {
    /// Whether a broker answered lately.
    pub reachable: bool,
    /// What the newest failure was, while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Which broker delays the relay for exceeding a quota, while it does. Absent from relays older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<String>,
}
