//! One Kafka producer: how it is configured, and what it reports of itself.
//!
//! It is idempotent and waits for all in-sync replicas. It retries by itself until an event's time is over; the
//! report of every event goes to that event's [`Delivery`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use presenceroute_crds::relay_config::{KafkaConfig, Limits};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Message};
use tokio::sync::Notify;

use super::credentials::Credentials;
use super::failure::Failure;
use super::ledger::Delivery;
use super::record::Record;
use crate::metrics::{KafkaErrorLabels, Metrics, TopicLabel, seconds};
use crate::routing::Target;

/// What a producer's callbacks share with the rest of the relay.
pub(super) struct Reports {
    pub(super) metrics: Arc<Metrics>,
    /// Rung when a producer can send no more.
    pub(super) fatal: Notify,
    /// What the cluster last failed with, and when.
    newest_error: Mutex<Option<(Instant, String)>>,
}

impl Reports {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, fatal: Notify::new(), newest_error: Mutex::new(None) }
    }

    /// The newest failure of the cluster, not of one event.
    pub(super) fn newest_error(&self) -> Option<(Instant, String)> {
        self.newest_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn forget_error(&self) {
        *self.newest_error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn record_error(&self, error: String) {
        let mut newest = self.newest_error.lock().unwrap_or_else(PoisonError::into_inner);
        // The library repeats itself on every attempt to connect.
        if newest.as_ref().is_none_or(|(_, known)| *known != error) {
            tracing::warn!(error, "Kafka");
        }
        *newest = Some((Instant::now(), error));
    }
}

struct Context(Arc<Reports>);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::debug!(target: "librdkafka", facility, message),
            _ => tracing::trace!(target: "librdkafka", facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let kind = format!("{code:?}");
        self.0.metrics.kafka_errors.get_or_create(&KafkaErrorLabels { topic: String::new(), kind }).inc();
        match code {
            RDKafkaErrorCode::Fatal => {
                tracing::error!(reason, "the Kafka producer can send no more; a new one takes over");
                self.0.fatal.notify_one();
            }
            // It says only that every broker has failed, right after each has said why.
            RDKafkaErrorCode::AllBrokersDown if self.0.newest_error().is_some() => {}
            _ => self.0.record_error(reason.to_owned()),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let metrics = &self.0.metrics;
        match result {
            Ok(message) => {
                metrics.stages.broker.observe(seconds(delivery.begun().elapsed()));
                metrics.published.get_or_create(&TopicLabel { topic: message.topic().to_owned() }).inc();
                delivery.finish(Ok(()));
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                let labels =
                    KafkaErrorLabels { topic: message.topic().to_owned(), kind: format!("{code:?}") };
                metrics.kafka_errors.get_or_create(&labels).inc();
                delivery.finish(Err(Failure::from_code(code)));
            }
        }
    }
}

/// One producer.
pub(super) struct Producer {
    inner: ThreadedProducer<Context>,
    /// Which of the relay's producers it is: a later one has a higher number.
    pub(super) generation: u64,
}

impl Producer {
    pub(super) fn new(
        kafka: &KafkaConfig,
        credentials: &Credentials,
        limits: &Limits,
        reports: Arc<Reports>,
        generation: u64,
    ) -> Result<Self, KafkaError> {
        let mut config = configuration(kafka, limits);
        for (name, value) in credentials.properties() {
            config.set(name, value);
        }
        let inner = config.create_with_context(Context(reports))?;
        Ok(Self { inner, generation })
    }

    /// Hands one record over. What becomes of it is reported to `delivery`, also when that is at once.
    pub(super) fn send(&self, record: &Record<'_>, target: &Target<'_>, delivery: Box<Delivery>) {
        let base = BaseRecord::with_opaque_to(target.topic.as_str(), delivery)
            .key(target.key.as_bytes())
            .payload(record.body)
            .headers(record.headers());
        if let Err((error, unsent)) = self.inner.send(base) {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::InvalidArgument);
            unsent.delivery_opaque.finish(Err(Failure::from_code(code)));
        }
    }

    /// Which of `topics` the cluster does not have; every one of `Err` means that no broker answered.
    pub(super) fn missing_topics(
        &self,
        topics: &[String],
        timeout: std::time::Duration,
    ) -> Result<Vec<String>, KafkaError> {
        /// Beyond this many, asking for all of a cluster's topics once is cheaper than for each. Of no topic, the
        /// question is only whether the cluster answers.
        const ASKED_ONE_BY_ONE: std::ops::RangeInclusive<usize> = 1..=32;
        let client = self.inner.client();
        if !ASKED_ONE_BY_ONE.contains(&topics.len()) {
            let metadata = client.fetch_metadata(None, timeout)?;
            let known: std::collections::HashSet<&str> = metadata
                .topics()
                .iter()
                .filter(|topic| !topic.partitions().is_empty())
                .map(|t| t.name())
                .collect();
            return Ok(topics.iter().filter(|topic| !known.contains(topic.as_str())).cloned().collect());
        }
        let mut missing = Vec::new();
        for topic in topics {
            let metadata = client.fetch_metadata(Some(topic), timeout)?;
            let found =
                metadata.topics().iter().any(|known| known.name() == topic && !known.partitions().is_empty());
            if !found {
                missing.push(topic.clone());
            }
        }
        Ok(missing)
    }

    /// Waits until every record has its report, or the time is over.
    pub(super) fn flush(&self, timeout: std::time::Duration) -> Result<(), KafkaError> {
        self.inner.flush(timeout)
    }
}

/// The configuration without credentials. What the relay's promises rest on is set last, so that nothing replaces
/// it.
fn configuration(kafka: &KafkaConfig, limits: &Limits) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    for (name, value) in [
        ("client.id", "presenceroute-relay"),
        ("socket.keepalive.enable", "true"),
        ("socket.nagle.disable", "true"),
        ("socket.connection.setup.timeout.ms", "3000"),
        ("reconnect.backoff.ms", "100"),
        ("reconnect.backoff.max.ms", "1000"),
        ("retry.backoff.ms", "200"),
        ("retry.backoff.max.ms", "1000"),
        // A missing topic is an answer, not something to wait for.
        ("topic.metadata.propagation.max.ms", "0"),
        // Far below what a topic takes, so that a full batch is not refused where each of its records fits.
        ("batch.size", "262144"),
    ] {
        config.set(name, value);
    }
    // The body, its key (which comes from it) and its headers.
    config.set("message.max.bytes", (limits.max_body_bytes * 2 + (64 << 10)).to_string());
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    for (name, value) in [
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("partitioner", "murmur2_random"),
        ("allow.auto.create.topics", "false"),
        ("linger.ms", "0"),
        // The ledger bounds what is in flight.
        ("queue.buffering.max.messages", "0"),
        ("queue.buffering.max.kbytes", "2147483647"),
    ] {
        config.set(name, value);
    }
    config.set("bootstrap.servers", kafka.bootstrap_servers.join(","));
    config.set("message.timeout.ms", limits.publish_timeout_ms.to_string());
    config
}
