//! What the library calls back for one producer: delivery reports, errors of the cluster, quotas, its log and its
//! statistics.
//!
//! Each delivery report goes to its [`Delivery`]. What failed is kept in [`Reports`], from which the producer and its
//! users read it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::batch_rejections;
use super::failure::{Failure, KafkaIdentity};
use super::in_flight::Delivery;
use super::librdkafka::{self, Client, Context};
use super::record::Position;
use super::statistics::Statistics;
use super::throttling::{Throttle, Throttles};
use crate::observe::labels::{KafkaErrorLabels, TopicLabel};
use crate::observe::metrics::{Metrics, seconds};

/// How long after the end of a broker's delay the requests that it delayed may time out.
const AFTER_THROTTLE: Duration = Duration::from_secs(5);

/// How many different failures of a cluster are kept.
const MAX_ERRORS: usize = 16;

/// What a producer reports of itself.
pub(super) struct Reports {
    pub(super) metrics: Arc<Metrics>,
    identity: KafkaIdentity,
    /// Whether events go to it.
    is_in_use: AtomicBool,
    /// Notified when it fails for good.
    failed: Notify,
    /// Why it failed for good.
    fatal: OnceLock<RDKafkaErrorCode>,
    /// What the cluster failed with since it last answered, each once, the newest last.
    errors: Mutex<Vec<String>>,
    /// The brokers that delay the relay for exceeding a quota.
    throttles: Throttles,
    /// The thread on which its client was ended.
    #[cfg(test)]
    pub(super) ended_on: OnceLock<std::thread::ThreadId>,
}

impl Reports {
    pub(super) fn new(metrics: Arc<Metrics>, identity: KafkaIdentity) -> Self {
        Self {
            metrics,
            identity,
            is_in_use: AtomicBool::new(false),
            failed: Notify::new(),
            fatal: OnceLock::new(),
            errors: Mutex::default(),
            throttles: Throttles::default(),
            #[cfg(test)]
            ended_on: OnceLock::new(),
        }
    }

    /// From now on events go to the producer.
    pub(super) fn set_in_use(&self) {
        self.is_in_use.store(true, Ordering::Relaxed);
    }

    /// The newest failure of the cluster, not of one event.
    pub(super) fn newest_error(&self) -> Option<String> {
        self.errors.lock().last().cloned()
    }

    /// The longest delay for exceeding a quota that was in force at `since` or later.
    pub(super) fn throttle_since(&self, since: Instant) -> Option<Throttle> {
        self.throttles.since(since)
    }

    pub(super) fn forget_errors(&self) {
        self.errors.lock().clear();
    }

    /// Counts a record that is not in its topic.
    pub(super) fn count_failure(&self, topic: &str, code: RDKafkaErrorCode) {
        let labels = KafkaErrorLabels { topic: topic.to_owned(), kind: format!("{code:?}") };
        self.metrics.kafka_errors.get_or_create(&labels).inc();
    }

    fn record_error(&self, code: RDKafkaErrorCode, reason: &str) {
        let error = self.identity.cluster_failure(code, reason);
        let mut errors = self.errors.lock();
        // The library repeats itself on every attempt to connect, and in turns where there are several brokers.
        match errors.iter().position(|known| *known == error) {
            Some(known) => drop(errors.remove(known)),
            None => tracing::warn!(error, "cannot reach Kafka"),
        }
        if errors.len() == MAX_ERRORS {
            errors.remove(0);
        }
        errors.push(error);
    }

    /// The producer failed for good.
    pub(super) fn record_fatal(&self, code: RDKafkaErrorCode) {
        tracing::error!(cause = ?code, "the Kafka producer failed for good; a new one replaces it");
        if code == RDKafkaErrorCode::ClusterAuthorizationFailed {
            self.record_error(code, "no record may be written to any topic (cluster authorization failed)");
        }
        // An error means that a cause is known already.
        let _ = self.fatal.set(code);
        self.failed.notify_one();
    }

    /// Why the producer failed for good.
    pub(super) fn fatal(&self) -> Option<RDKafkaErrorCode> {
        self.fatal.get().copied()
    }

    /// Waits until the producer fails for good, and returns why.
    pub(super) async fn failed(&self) -> RDKafkaErrorCode {
        self.failed.notified().await;
        self.fatal().unwrap_or(RDKafkaErrorCode::Fatal)
    }

    /// What a failure code means for a delivery of this producer.
    pub(super) fn failure(&self, code: RDKafkaErrorCode) -> Failure {
        match (Failure::from_code(code), self.fatal.get()) {
            // Another producer would not be authorized either.
            (Failure::Returned, Some(fatal @ RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                Failure::Rejected(*fatal)
            }
            (failure, _) => failure,
        }
    }
}

/// A topic of one producer, with the counter of what it acknowledged.
pub(super) struct Topic {
    pub(super) handle: librdkafka::Topic<Callbacks>,
    published: Counter,
}

impl Topic {
    pub(super) fn new(client: &Client<Callbacks>, name: &str, metrics: &Metrics) -> Option<Self> {
        let published = metrics.published.get_or_create_owned(&TopicLabel { topic: name.to_owned() });
        Some(Self { handle: librdkafka::Topic::new(client, name)?, published })
    }
}

/// What is attached to a record until its delivery report.
pub(super) struct Sent {
    pub(super) delivery: Delivery,
    pub(super) topic: Arc<Topic>,
    pub(super) since: Instant,
}

/// How many records a batch has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchSize {
    /// As many as wait to be sent.
    Many,
    One,
}

/// The callbacks of one producer.
pub(super) struct Callbacks {
    reports: Arc<Reports>,
    statistics: Arc<Statistics>,
    generation: u64,
    batch_size: BatchSize,
    /// Why there is no token, while there is none.
    token_error: Mutex<Option<String>>,
}

impl Callbacks {
    pub(super) fn new(
        reports: Arc<Reports>,
        statistics: Arc<Statistics>,
        generation: u64,
        batch_size: BatchSize,
    ) -> Self {
        Self { reports, statistics, generation, batch_size, token_error: Mutex::new(None) }
    }

    /// Sets why the producer has no token to authenticate with; `None` when it has one.
    pub(super) fn set_token_error(&self, error: Option<String>) {
        *self.token_error.lock() = error;
    }
}

#[cfg(test)]
impl Drop for Callbacks {
    fn drop(&mut self) {
        let _ = self.reports.ended_on.set(std::thread::current().id());
    }
}

impl ClientContext for Callbacks {
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
        if !self.reports.is_in_use.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.statistics.update(self.generation, json) {
            tracing::debug!(%error, "the Kafka library's statistics cannot be read");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.reports.count_failure("", code);
        // What a broker delays for a quota times out, although the broker is well.
        if matches!(code, RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::AllBrokersDown)
            && let Some(since) = Instant::now().checked_sub(AFTER_THROTTLE)
            && self.reports.throttle_since(since).is_some()
        {
            return;
        }
        let token_error = self.token_error.lock().clone();
        match (code, token_error) {
            // It means only that every broker has failed, right after each has reported why.
            (RDKafkaErrorCode::AllBrokersDown, _) if self.reports.newest_error().is_some() => {}
            // Without a token, every error of a broker has this one cause.
            (_, Some(why)) => self.reports.record_error(RDKafkaErrorCode::Authentication, &why),
            (_, None) => self.reports.record_error(code, reason),
        }
    }
}

impl Context for Callbacks {
    type Attached = Sent;

    fn delivery(&self, result: Result<(i32, i64), RDKafkaErrorCode>, sent: Sent) {
        let Sent { delivery, topic, since } = sent;
        match result {
            Ok((partition, offset)) => {
                self.reports.metrics.stages.broker.observe(seconds(since.elapsed()));
                topic.published.inc();
                delivery.finish(Ok(Position { partition, offset }));
            }
            Err(code) => {
                self.reports.count_failure(topic.handle.name(), code);
                if self.batch_size == BatchSize::Many && Failure::is_batch_ambiguous(code) {
                    batch_rejections::note(delivery, code);
                } else {
                    delivery.finish(Err(self.reports.failure(code)));
                }
            }
        }
    }

    fn throttled(&self, broker: &str, id: i32, delay: Duration) {
        self.reports.metrics.kafka_throttle.inc_by(seconds(delay));
        self.reports.throttles.note(id, broker, delay, Instant::now());
    }
}
