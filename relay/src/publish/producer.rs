//! One Kafka producer: how it is configured, and what it reports of itself.
//!
//! It is idempotent and waits for all in-sync replicas. It retries by itself until an event's time is over; the
//! report of every event goes to that event's [`Delivery`].

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use presenceroute_crds::relay_config::{KafkaConfig, Limits};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Message as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::credentials::Credentials;
use super::failure::Failure;
use super::gate::{Gate, Message};
use super::ledger::Delivery;
use super::native::{self, Topic, Wakeups};
use super::oauth;
use super::record::{Position, Record};
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

/// What a producer's callbacks are served with.
pub(super) struct Context {
    reports: Arc<Reports>,
    gate: Arc<Gate>,
    generation: u64,
    /// Whether the next call of [`ClientContext::error`] repeats the one before.
    repeats_error: AtomicBool,
}

/// A record that the library has, until its report comes.
pub(super) struct Sent {
    pub(super) delivery: Delivery,
    pub(super) topic: Arc<Topic>,
    /// The record's value, which the library does not copy.
    pub(super) body: Bytes,
    pub(super) since: Instant,
}

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

    fn stats_raw(&self, json: &[u8]) {
        if let Err(error) = self.reports.metrics.statistics.take(self.generation, json) {
            tracing::debug!(%error, "the Kafka library's statistics cannot be read");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The crate's producer tells each error twice in a row.
        if self.repeats_error.fetch_xor(true, Ordering::Relaxed) {
            return;
        }
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let kind = format!("{code:?}");
        self.reports
            .metrics
            .kafka_errors
            .get_or_create(&KafkaErrorLabels { topic: String::new(), kind })
            .inc();
        match code {
            // It says only that every broker has failed, right after each has said why.
            RDKafkaErrorCode::AllBrokersDown if self.reports.newest_error().is_some() => {}
            _ => self.reports.record_error(reason.to_owned()),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        self.gate.reported();
        let metrics = &self.reports.metrics;
        let Sent { delivery, topic, since, .. } = *sent;
        match result {
            Ok(record) => {
                metrics.stages.broker.observe(seconds(since.elapsed()));
                topic.published.inc();
                delivery.finish(Ok(Position { partition: record.partition(), offset: record.offset() }));
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                let labels = KafkaErrorLabels { topic: topic.name().to_owned(), kind: format!("{code:?}") };
                metrics.kafka_errors.get_or_create(&labels).inc();
                delivery.finish(Err(Failure::from_code(code)));
            }
        }
    }
}

/// One producer.
pub(super) struct Producer {
    client: Arc<BaseProducer<Context>>,
    topics: RwLock<HashMap<String, Arc<Topic>, foldhash::fast::RandomState>>,
    reports: Arc<Reports>,
    gate: Arc<Gate>,
    /// Which of the relay's producers it is: a later one has a higher number.
    pub(super) generation: u64,
    serving: JoinHandle<()>,
    /// Gets tokens, with OAUTHBEARER.
    supplying: Option<JoinHandle<()>>,
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
        let gate = Arc::new(Gate::default());
        let context = Context {
            reports: Arc::clone(&reports),
            gate: Arc::clone(&gate),
            generation,
            repeats_error: AtomicBool::new(false),
        };
        let client: Arc<BaseProducer<Context>> = Arc::new(config.create_with_context(context)?);
        let wakeups = Wakeups::new(&client, Arc::clone(&gate.bell))
            .ok_or_else(|| KafkaError::ClientCreation("it has no event queue".into()))?;
        let serving = tokio::spawn(serve(wakeups, Arc::clone(&gate), Arc::clone(&reports)));
        let supplying =
            credentials.oauth().map(|oauth| tokio::spawn(oauth::supply(Arc::clone(&client), oauth.clone())));
        Ok(Self { client, topics: RwLock::default(), reports, gate, generation, serving, supplying })
    }

    /// Hands one record over. What becomes of it is reported to `delivery`, also when that is at once.
    pub(super) fn send(&self, record: &Record<'_>, target: &Target<'_>, delivery: Delivery) {
        let (Some(topic), Some(headers)) = (self.topic(target.topic.as_str()), record.headers()) else {
            return delivery.finish(Err(Failure::from_code(RDKafkaErrorCode::CriticalSystemResource)));
        };
        self.gate.send(Message {
            topic,
            key: target.key.as_bytes().into(),
            body: record.body.clone(),
            headers,
            delivery,
        });
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let known = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if known.is_some() {
            return known;
        }
        let published =
            self.reports.metrics.published.get_or_create_owned(&TopicLabel { topic: name.to_owned() });
        let topic = Arc::new(Topic::new(&self.client, name, published)?);
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(topics.entry(name.to_owned()).or_insert(topic)))
    }

    /// Which of `names` the cluster does not have. Of no topic, the question is whether the cluster answers.
    pub(super) fn missing_topics(
        &self,
        names: &[String],
        timeout: Duration,
    ) -> Result<Vec<String>, KafkaError> {
        let known: Vec<_> = names.iter().filter_map(|name| self.topic(name)).collect();
        if known.is_empty() {
            return self.client.client().fetch_metadata(None, timeout).map(|_| Vec::new());
        }
        let found = native::topics_in_use(&self.client, timeout).map_err(KafkaError::MetadataFetch)?;
        let there: HashSet<_> =
            found.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect();
        Ok(names.iter().filter(|name| !there.contains(*name)).cloned().collect())
    }

    /// Waits until every record has its report, or the time is over.
    pub(super) fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.gate.open();
        self.client.flush(timeout)
    }

    /// Makes it fail for good.
    #[cfg(test)]
    pub(super) fn fail_for_good(&self) {
        native::fail_for_good(&self.client);
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.serving.abort();
        self.supplying.iter().for_each(JoinHandle::abort);
    }
}

/// Serves the reports of a producer's records, and hands over what has gathered meanwhile.
async fn serve(wakeups: Wakeups, gate: Arc<Gate>, reports: Arc<Reports>) {
    let mut has_failed = false;
    loop {
        match gate.opens_at() {
            None => wakeups.next().await,
            Some(at) => {
                let _ = tokio::time::timeout_at(at.into(), wakeups.next()).await;
            }
        }
        wakeups.serve();
        if !has_failed && wakeups.has_failed() {
            has_failed = true;
            tracing::error!("the Kafka producer can send no more; a new one takes over");
            reports.fatal.notify_one();
        }
        gate.open_if_due();
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
        // One text of a few KiB and one for each partition: too seldom to be noticed, often enough for a scrape.
        ("statistics.interval.ms", "10000"),
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
