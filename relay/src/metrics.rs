//! What the relay counts, in Prometheus's names and units. One registry a relay, so that several can run in one
//! process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use presenceroute_core::relay_config::Limits;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::problem::Kind;
use crate::publish::Statistics;

/// The metrics of one relay.
pub struct Metrics {
    registry: Registry,
    requests: Vec<(Reason, Counter)>,
    /// Events whose signature was made with an active secret, whatever became of them then.
    pub authenticated: Counter,
    /// Events by the topic that acknowledged them.
    pub published: Family<TopicLabel, Counter>,
    /// Failed deliveries.
    pub kafka_errors: Family<KafkaErrorLabels, Counter>,
    /// Deliveries that were answered from memory or joined one in flight.
    pub repeated: Family<RepeatLabel, Counter>,
    /// Conditions that had no answer for an event.
    pub failed_conditions: Counter,
    /// How long an event took, stage by stage.
    pub stages: Stages,
    /// Deliveries that Kafka has not answered yet.
    pub in_flight: Gauge,
    /// Bytes of events that are held.
    pub in_flight_bytes: Gauge,
    /// The bounds of both.
    pub in_flight_limits: InFlightLimits,
    /// The routing table that is served: 1 with its revision.
    pub routing_revision: Family<RevisionLabel, Gauge>,
    /// 1 when the newest routing table is the one that is served.
    pub routing_valid: Gauge,
    /// The secrets that are accepted: 1 with their revision.
    pub secret_revision: Family<RevisionLabel, Gauge>,
    /// 1 when the newest secrets are those that are accepted.
    pub secrets_valid: Gauge,
    /// How many secrets are active.
    pub secrets_active: Gauge,
    /// 1 when the newest certificate is the one that is served; nothing without TLS.
    pub certificate_valid: Family<CertificateLabel, Gauge>,
    /// When the certificate that is served expires, in seconds since 1970; nothing without TLS.
    pub certificate_expiry: Family<CertificateLabel, Gauge>,
    /// TLS handshakes that failed.
    pub tls_handshake_failures: Counter,
    /// Of each topic that the table names, 1 where Kafka does not have it.
    pub missing_topics: Family<TopicLabel, Gauge>,
    /// The same, where Kafka does not let the relay write to it.
    pub forbidden_topics: Family<TopicLabel, Gauge>,
    /// 1 while a broker answers.
    pub kafka_reachable: Gauge,
    /// How often the producer was built anew, by cause.
    pub producer_rebuilds: Family<CauseLabel, Counter>,
    /// Open connections.
    pub connections: Gauge,
    /// What the Kafka library counts of itself.
    pub statistics: Arc<Statistics>,
}

/// How much a relay holds at most; beyond that it answers 503.
pub struct InFlightLimits {
    /// Deliveries.
    pub events: Gauge,
    /// Bytes.
    pub bytes: Gauge,
}

impl InFlightLimits {
    /// The bounds of a relay's configuration.
    pub fn set(&self, limits: &Limits) {
        self.events.set(i64::try_from(limits.max_in_flight).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(limits.max_in_flight_bytes).unwrap_or(i64::MAX));
    }
}

/// The stages of an event, in seconds.
pub struct Stages {
    /// From the whole body to the decision where it goes.
    pub verify: Histogram,
    /// From the decision to the hand-over to the Kafka library.
    pub queue: Histogram,
    /// From the hand-over to the acknowledgement.
    pub broker: Histogram,
}

/// Why a request was answered as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Acknowledged by every topic.
    Processed,
    /// No route matches, and the table says to drop it.
    Dropped,
    /// No route matches, and the dead-letter topic has it.
    DeadLettered,
    /// Refused.
    Refused(Kind),
}

impl Reason {
    /// The status that it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Processed | Self::Dropped | Self::DeadLettered => StatusCode::OK,
            Self::Refused(kind) => kind.status(),
        }
    }

    /// Its name in the metrics and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Dropped => "dropped",
            Self::DeadLettered => "dead-lettered",
            Self::Refused(kind) => kind.name(),
        }
    }

    fn labels(self) -> RequestLabels {
        RequestLabels { code: self.status().as_u16(), reason: self.name() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
    reason: &'static str,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabel {
    /// Its name.
    pub topic: String,
}

/// A failed delivery.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KafkaErrorLabels {
    /// The topic, or nothing when the failure is the cluster's.
    pub topic: String,
    /// The library's name of the failure.
    pub kind: String,
}

/// How a repetition was recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepeatLabel {
    /// Which way.
    pub outcome: Repeat,
}

impl EncodeLabelValue for Repeat {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let name = match self {
            Self::Joined => "joined",
            Self::Remembered => "remembered",
        };
        name.encode(encoder)
    }
}

/// How a repetition was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// The first one is still in flight.
    Joined,
    /// It was acknowledged lately.
    Remembered,
}

/// A revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RevisionLabel {
    /// Its name.
    pub revision: String,
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabel {
    /// Its purpose.
    pub certificate: &'static str,
}

/// A cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// Its name.
    pub cause: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("presenceroute_relay");
        registry.register(
            "build",
            "The relay's version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        let requests = requests(&mut registry);
        let stages = Family::<StageLabel, Histogram>::new_with_constructor(|| {
            // From a signature check to the publish deadline; an acknowledgement takes about a millisecond.
            Histogram::new([
                0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05,
                0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            ])
        });
        registry.register_with_unit(
            "publish_duration",
            "How long an event took: verify (signature, decoding, routing), queue (until the hand-over to the Kafka \
             library), broker (until the acknowledgement)",
            Unit::Seconds,
            stages.clone(),
        );
        let statistics = Arc::new(Statistics::default());
        registry.register_collector(Box::new(Arc::clone(&statistics)));
        let stage = |stage| stages.get_or_create_owned(&StageLabel { stage });
        let stages = Stages { verify: stage("verify"), queue: stage("queue"), broker: stage("broker") };
        let metrics = Self {
            requests,
            stages,
            statistics,
            authenticated: metric(
                &mut registry,
                "events_authenticated",
                "Events whose signature was made with an active secret",
            ),
            published: metric(&mut registry, "events_published", "Events acknowledged by a topic"),
            kafka_errors: metric(
                &mut registry,
                "kafka_errors",
                "Failed deliveries and failures of the cluster",
            ),
            repeated: metric(&mut registry, "repeated_events", "Deliveries recognised as a repetition"),
            failed_conditions: metric(
                &mut registry,
                "condition_failures",
                "Conditions that had no answer for an event, and so did not match",
            ),
            in_flight: metric(
                &mut registry,
                "in_flight_events",
                "Deliveries that Kafka has not answered yet",
            ),
            in_flight_bytes: metric(&mut registry, "in_flight_bytes", "Bytes of events that are held"),
            in_flight_limits: InFlightLimits {
                events: metric(
                    &mut registry,
                    "in_flight_events_limit",
                    "Deliveries that may wait for Kafka's answer; beyond, 503",
                ),
                bytes: metric(
                    &mut registry,
                    "in_flight_bytes_limit",
                    "Bytes of events that may be held; beyond, 503",
                ),
            },
            routing_revision: metric(&mut registry, "routing_revision", "The routing table that is served"),
            routing_valid: metric(
                &mut registry,
                "routing_valid",
                "1 when the newest routing table is the one that is served",
            ),
            secret_revision: metric(
                &mut registry,
                "secret_revision",
                "The signing secrets that are accepted",
            ),
            secrets_valid: metric(
                &mut registry,
                "secrets_valid",
                "1 when the newest signing secrets are those that are accepted",
            ),
            secrets_active: metric(&mut registry, "secrets_active", "Signing secrets that are accepted"),
            certificate_valid: metric(
                &mut registry,
                "certificate_valid",
                "1 when the newest certificate is the one that is served",
            ),
            certificate_expiry: metric(
                &mut registry,
                "certificate_expiry_timestamp_seconds",
                "When the certificate that is served expires, in seconds since 1970",
            ),
            tls_handshake_failures: metric(
                &mut registry,
                "tls_handshake_failures",
                "TLS handshakes of senders that failed",
            ),
            missing_topics: metric(
                &mut registry,
                "missing_topics",
                "Whether Kafka does not have a topic that the routing table names",
            ),
            forbidden_topics: metric(
                &mut registry,
                "forbidden_topics",
                "Whether Kafka does not let the relay write to a topic that the routing table names",
            ),
            kafka_reachable: metric(&mut registry, "kafka_reachable", "1 while a broker answers"),
            producer_rebuilds: metric(&mut registry, "producer_rebuilds", "Kafka producers built anew"),
            connections: metric(&mut registry, "connections", "Open connections of senders"),
            registry,
        };
        // There from the start: to Prometheus, a counter that appears with its first count has not increased.
        for outcome in [Repeat::Joined, Repeat::Remembered] {
            drop(metrics.repeated.get_or_create(&RepeatLabel { outcome }));
        }
        for cause in ["credentials", "fatal"] {
            drop(metrics.producer_rebuilds.get_or_create(&CauseLabel { cause }));
        }
        metrics
    }

    /// Counts one answer.
    pub fn answered(&self, reason: Reason) {
        if let Some((_, counter)) = self.requests.iter().find(|(counted, _)| *counted == reason) {
            counter.inc();
        }
    }

    /// How often a request was answered so.
    pub fn answers(&self, reason: Reason) -> u64 {
        let counted = self.requests.iter().find(|(counted, _)| *counted == reason);
        counted.map_or(0, |(_, counter)| counter.get())
    }

    /// Everything in the text format of OpenMetrics.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// One counter a reason, looked up without a lock when a request is answered.
fn requests(registry: &mut Registry) -> Vec<(Reason, Counter)> {
    let family: Family<RequestLabels, Counter> =
        metric(registry, "requests", "Requests by how they were answered");
    [Reason::Processed, Reason::Dropped, Reason::DeadLettered]
        .into_iter()
        .chain(Kind::ALL.map(Reason::Refused))
        .map(|reason| (reason, family.get_or_create_owned(&reason.labels())))
        .collect()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

fn metric<M: prometheus_client::registry::Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// A duration as the histograms take it.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_code_and_reason() {
        let metrics = Metrics::new();
        metrics.answered(Reason::Processed);
        metrics.answered(Reason::Refused(Kind::SignatureMismatch));
        let text = metrics.encode().unwrap();
        assert!(
            text.contains(r#"presenceroute_relay_requests_total{code="200",reason="processed"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"presenceroute_relay_requests_total{code="403",reason="signature-mismatch"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"presenceroute_relay_publish_duration_seconds_count{stage="verify"} 0"#),
            "{text}"
        );
    }
}
