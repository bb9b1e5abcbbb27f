//! The relay's metrics, in Prometheus's names and units. One registry a relay, so that several can run in one process.
//!
//! What keeps numbers of its own registers a collector; this module knows none of them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use presenceroute_core::relay_config::Limits;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{
    CauseLabel, CertificateLabel, KafkaErrorLabels, Repeat, RepeatLabel, RequestLabels, RevisionLabel,
    StageLabel, TopicLabel,
};
use super::queue::Queue;
use crate::outcome::{Delivered, Outcome, ProblemKind};

/// The metrics of one relay.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Vec<(Outcome, Counter)>,
    /// Events whose sender proved itself, whatever became of them later.
    pub authenticated: Counter,
    /// Events by the topic that acknowledged them.
    pub published: Family<TopicLabel, Counter>,
    pub kafka_errors: Family<KafkaErrorLabels, Counter>,
    /// Deliveries recognised as a duplicate.
    pub repeated: Family<RepeatLabel, Counter>,
    /// Conditions that could not be evaluated for an event.
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
    /// The delays that brokers announced because of quotas, in seconds.
    pub kafka_throttle: Counter<f64, AtomicU64>,
    /// How often the producer was built anew, by cause.
    pub producer_rebuilds: Family<CauseLabel, Counter>,
    pub connections: Gauge,
}

/// How much a relay holds at most; beyond that it answers 503.
pub struct InFlightLimits {
    pub events: Gauge,
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
        let stage = |stage| stages.get_or_create_owned(&StageLabel { stage });
        let stages = Stages { verify: stage("verify"), queue: stage("queue"), broker: stage("broker") };
        let metrics = Self {
            requests,
            stages,
            authenticated: metric(
                &mut registry,
                "events_authenticated",
                "Events with a signature of an active secret, or an active API key",
            ),
            published: metric(&mut registry, "events_published", "Events acknowledged by a topic"),
            kafka_errors: metric(
                &mut registry,
                "kafka_errors",
                "Failed deliveries and failures of the cluster",
            ),
            repeated: metric(
                &mut registry,
                "repeated_events",
                "Deliveries recognised as a duplicate: one that joined the first in flight, or whose event was acknowledged within the dedupe window",
            ),
            failed_conditions: metric(
                &mut registry,
                "condition_failures",
                "Conditions that could not be evaluated for an event, and so did not match",
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
                "The signing secrets or API keys that are accepted",
            ),
            secrets_valid: metric(
                &mut registry,
                "secrets_valid",
                "1 when the newest signing secrets or API keys are those that are accepted",
            ),
            secrets_active: metric(
                &mut registry,
                "secrets_active",
                "Signing secrets or API keys that are accepted",
            ),
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
            kafka_throttle: metric(
                &mut registry,
                "kafka_throttle_seconds",
                "By how many seconds brokers delayed requests of the relay because it exceeds a quota",
            ),
            producer_rebuilds: metric(&mut registry, "producer_rebuilds", "Kafka producers built anew"),
            connections: metric(&mut registry, "connections", "Open connections of senders"),
            registry: Mutex::new(registry),
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

    /// Adds the metrics of a queue that events are received from.
    pub fn add_queue(&self) -> Arc<Queue> {
        Queue::new(&mut self.registry.lock())
    }

    /// Adds what `collector` reports to what is encoded.
    pub fn register(&self, collector: Box<dyn Collector>) {
        self.registry.lock().register_collector(collector);
    }

    /// Counts one answered request.
    pub fn answered(&self, outcome: Outcome) {
        if let Some((_, counter)) = self.requests.iter().find(|(counted, _)| *counted == outcome) {
            counter.inc();
        }
    }

    /// How many requests were answered so.
    pub fn answers(&self, outcome: Outcome) -> u64 {
        let counted = self.requests.iter().find(|(counted, _)| *counted == outcome);
        counted.map_or(0, |(_, counter)| counter.get())
    }

    /// Everything in the text format of OpenMetrics.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

#[cfg(test)]
impl Metrics {
    /// Gives each metric that has labels a series, as the page of metrics needs it.
    pub(crate) fn show_every_series(&self) {
        let name = || "x".to_owned();
        drop(self.published.get_or_create(&TopicLabel { topic: name() }));
        drop(self.kafka_errors.get_or_create(&KafkaErrorLabels { topic: name(), kind: name() }));
        for revisions in [&self.routing_revision, &self.secret_revision] {
            drop(revisions.get_or_create(&RevisionLabel { revision: name() }));
        }
        for certificates in [&self.certificate_valid, &self.certificate_expiry] {
            drop(certificates.get_or_create(&CertificateLabel { certificate: "x" }));
        }
        for topics in [&self.missing_topics, &self.forbidden_topics] {
            drop(topics.get_or_create(&TopicLabel { topic: name() }));
        }
        drop(self.add_queue());
    }
}

/// One counter an outcome, so that answering a request looks nothing up under a lock.
fn requests(registry: &mut Registry) -> Vec<(Outcome, Counter)> {
    let family: Family<RequestLabels, Counter> =
        metric(registry, "requests", "Requests by how they were answered");
    let delivered = Delivered::ALL.map(Outcome::Delivered);
    let rejected = ProblemKind::ALL.map(Outcome::Rejected);
    delivered
        .into_iter()
        .chain(rejected)
        .map(|outcome| {
            let labels = RequestLabels { code: outcome.status().as_u16(), reason: outcome.name() };
            (outcome, family.get_or_create_owned(&labels))
        })
        .collect()
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
        metrics.answered(Outcome::Delivered(Delivered::Published));
        metrics.answered(Outcome::Rejected(ProblemKind::SignatureMismatch));
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
