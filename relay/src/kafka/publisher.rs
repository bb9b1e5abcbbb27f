//! Publishing an event: acknowledged by all in-sync replicas of every topic it goes to, or a problem that says why not.
//!
//! A [`Publisher`] owns the producer in use, and knows whether the cluster answers and has the table's topics. Which
//! topics an event goes to is decided before; when the producer is replaced is the supervisor's decision.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use presenceroute_core::receipt::{Receipt, ReceiptRecord};
use presenceroute_core::relay_config::{KafkaConfig, Limits};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::credentials::Credentials;
use super::failure::Failure;
use super::in_flight::{self, InFlightTable, StartResult};
use super::producer::{CHECK_TIMEOUT, Producer};
use super::record::{Position, Record};
use super::statistics::Statistics;
use super::throttling::Throttle;
use super::topic_health::{ClusterHealth, ClusterReport};
use crate::observe::labels::{CauseLabel, Repeat, RepeatLabel};
use crate::observe::metrics::Metrics;
use crate::outcome::{Problem, ProblemKind};
use presenceroute_core::routing::Target;

/// Publishes events. It is shared by all requests of a relay.
pub struct Publisher {
    pub(super) kafka: KafkaConfig,
    limits: Limits,
    in_flight: Arc<InFlightTable>,
    pub(super) metrics: Arc<Metrics>,
    statistics: Arc<Statistics>,
    pub(super) producer: watch::Sender<Arc<Producer>>,
    pub(super) health: Mutex<ClusterHealth>,
}

impl Publisher {
    /// Makes the first producer. It connects by itself; nothing waits for that.
    pub(super) async fn new(
        kafka: KafkaConfig,
        limits: Limits,
        metrics: Arc<Metrics>,
        statistics: Arc<Statistics>,
        credentials: Arc<Credentials>,
    ) -> Result<Arc<Self>, KafkaError> {
        let bounds = in_flight::Limits {
            in_flight: limits.max_in_flight,
            in_flight_bytes: limits.max_in_flight_bytes,
            dedupe_max_ids: limits.dedupe_max_ids,
            dedupe_window: Duration::from_millis(limits.dedupe_window_ms),
        };
        let (made_for, counted, reported) = (kafka.clone(), Arc::clone(&metrics), Arc::clone(&statistics));
        let first = Producer::make(made_for, credentials, limits.clone(), counted, reported, 0).await?;
        first.set_in_use();
        Ok(Arc::new(Self {
            in_flight: InFlightTable::new(bounds, Arc::clone(&metrics)),
            producer: watch::Sender::new(first),
            health: Mutex::default(),
            kafka,
            limits,
            metrics,
            statistics,
        }))
    }

    /// Publishes one event to every target, and returns when each has acknowledged it or one cannot. Its deadline counts
    /// from `routed_at`.
    ///
    /// An event that is not acknowledged at the deadline stays in flight until Kafka has acknowledged it or
    /// `deliveryTimeoutMs` is over: Kafka may have it already. A repetition joins it, or is a duplicate once it is
    /// acknowledged. The positions of the records are added to `receipt`, when there is one.
    pub async fn publish(
        &self,
        record: &Record<'_>,
        targets: &[Target<'_>],
        routed_at: Instant,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<(), Problem> {
        let mut note = |target: &Target<'_>, position: Option<Position>| {
            if let Some(receipt) = &mut receipt {
                receipt.records.push(ReceiptRecord {
                    topic: target.topic.as_str().to_owned(),
                    partition: position.map(|position| position.partition),
                    offset: position.map(|position| position.offset),
                });
            }
        };
        if let [target] = targets {
            return match self.deliver_in_time(record, target, routed_at).await {
                Ok(position) => {
                    note(target, position);
                    Ok(())
                }
                Err(failure) => Err(self.problem(&[(target, failure)])),
            };
        }
        let deliveries = targets.iter().map(|target| self.deliver_in_time(record, target, routed_at));
        let outcomes = futures::future::join_all(deliveries).await;
        let mut failures = Vec::new();
        for (target, outcome) in targets.iter().zip(outcomes) {
            match outcome {
                Ok(position) => note(target, position),
                Err(failure) => failures.push((target, failure)),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(self.problem(&failures)) }
    }

    async fn deliver_in_time(
        &self,
        record: &Record<'_>,
        target: &Target<'_>,
        routed_at: Instant,
    ) -> Result<Option<Position>, Failure> {
        let deadline = routed_at + self.publish_timeout();
        match timeout_at(deadline.into(), self.deliver(record, target, routed_at)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Unavailable(RDKafkaErrorCode::MessageTimedOut)),
        }
    }

    /// Publishes one event to one topic, with as many producers as it takes. The position is not known of a duplicate.
    async fn deliver(
        &self,
        record: &Record<'_>,
        target: &Target<'_>,
        mut now: Instant,
    ) -> Result<Option<Position>, Failure> {
        let topic = target.topic.as_str();
        let fingerprint = self.in_flight.fingerprint(record.id(), record.body, topic);
        let mut alone = false;
        loop {
            // It must live until the outcome is known, because it receives the reports.
            let mut producer = self.current();
            if alone {
                // Boxed: hardly an event comes here, and the future of every request would have room for it.
                producer = match Box::pin(producer.single_record_producer()).await {
                    Ok(producer) => producer,
                    // Another producer has replaced it.
                    Err(Failure::Returned) => continue,
                    Err(failure) => return Err(failure),
                };
                now = Instant::now();
            }
            let (outcome, batch, is_first) =
                match self.in_flight.start(fingerprint, record.largest_value(target.content_mode), now) {
                    StartResult::Acknowledged => {
                        self.repeated(Repeat::Remembered);
                        return Ok(None);
                    }
                    StartResult::Full => return Err(Failure::Overloaded),
                    StartResult::Joined(outcome) => {
                        self.repeated(Repeat::Joined);
                        (outcome, None, false)
                    }
                    StartResult::First(delivery, outcome) => {
                        (outcome, producer.send(record, target, delivery, now), true)
                    }
                };
            let outcome = match batch {
                None => outcome.await,
                Some(batch) => batch.until(outcome).await,
            };
            match outcome.unwrap_or(Err(Failure::Dropped)) {
                Ok(position) => return Ok(Some(position)),
                Err(Failure::RejectedInBatch) => alone = true,
                // Another producer than this one had it, or the same one sends it under a new epoch.
                Err(Failure::Returned) if !is_first || producer.can_send() => {}
                Err(Failure::Returned) => match producer.rejection() {
                    Some(rejection) => return Err(rejection),
                    // The next sender that needs one makes the next single-record producer.
                    None if alone => {}
                    None => self.producer_after(producer.generation).await,
                },
                Err(failure) => return Err(failure),
            }
            now = Instant::now();
        }
    }

    async fn producer_after(&self, generation: u64) {
        // It fails only when the publisher is gone, and with it its waiters.
        let _ = self.producer.subscribe().wait_for(|producer| producer.generation > generation).await;
    }

    fn repeated(&self, outcome: Repeat) {
        self.metrics.repeated.get_or_create(&RepeatLabel { outcome }).inc();
    }

    pub(super) fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.publish_timeout_ms)
    }

    /// The problem for what failed. What needs a person comes first, since a retry cannot help it.
    fn problem(&self, failures: &[(&Target<'_>, Failure)]) -> Problem {
        let identity = self.producer.borrow().identity.clone();
        let rejected: Vec<String> = failures
            .iter()
            .filter_map(|(target, failure)| match failure {
                Failure::Rejected(code) => Some(identity.rejection(target.topic.as_str(), *code)),
                _ => None,
            })
            .collect();
        if !rejected.is_empty() {
            return Problem::new(ProblemKind::KafkaRefused, rejected.join(". "));
        }
        let throttle = self.throttle();
        let retry_after =
            throttle.as_ref().map(|throttle| throttle.until.saturating_duration_since(Instant::now()));
        if failures.iter().any(|(_, failure)| *failure == Failure::Overloaded) {
            let detail = format!(
                "{} deliveries or {} bytes are waiting for Kafka{}; send the event again later",
                self.limits.max_in_flight,
                self.limits.max_in_flight_bytes,
                self.obstacle(failures)
            );
            return Problem::new(ProblemKind::Overloaded, detail).until(retry_after);
        }
        let topics: Vec<&str> = failures.iter().map(|(target, _)| target.topic.as_str()).collect();
        let cause = self.obstacle(failures);
        let detail = format!(
            "{} did not acknowledge the event within {} ms{cause}; send the event again",
            topics.join(" and "),
            self.limits.publish_timeout_ms
        );
        let kind = match throttle {
            Some(_) => ProblemKind::KafkaThrottled,
            None => ProblemKind::KafkaUnavailable,
        };
        Problem::new(kind, detail).until(retry_after)
    }

    /// Why Kafka does not acknowledge, as far as that is known, in parentheses.
    fn obstacle(&self, failures: &[(&Target<'_>, Failure)]) -> String {
        let throttled = self.throttle().map(|throttle| throttle.to_string());
        let of_cluster = throttled.or_else(|| self.producer.borrow().reports.newest_error());
        let known = of_cluster.or_else(|| {
            let cluster = self.health.lock();
            failures.iter().find_map(|(target, _)| cluster.obstacle(target.topic.as_str()))
        });
        known.map_or_else(String::new, |known| format!(" ({known})"))
    }

    /// The longest delay for exceeding a quota that an event of now may have met within its deadline.
    fn throttle(&self) -> Option<Throttle> {
        let since = Instant::now().checked_sub(self.publish_timeout())?;
        self.producer.borrow().reports.throttle_since(since)
    }

    fn brokers(&self) -> String {
        self.kafka.bootstrap_servers.join(",")
    }

    /// How many deliveries are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.in_flight()
    }

    /// Whether a broker answered lately.
    pub fn is_reachable(&self) -> bool {
        self.health.lock().reachable
    }

    /// The state of the connection, and which of the table's topics cannot be written to.
    pub fn report(&self) -> ClusterReport {
        let identity = self.producer.borrow().identity.clone();
        let throttled = self.throttle().map(|throttle| throttle.to_string());
        self.health.lock().report(&identity, throttled)
    }

    /// The producer that events go to.
    pub(super) fn current(&self) -> Arc<Producer> {
        Arc::clone(&self.producer.borrow())
    }

    /// Asks the cluster for the table's topics. Returns whether it answered and has them all.
    pub(super) async fn check_topics(self: Arc<Self>, topics: Vec<String>) -> bool {
        let (producer, begun) = (self.current(), Instant::now());
        let asked = Arc::clone(&producer);
        let asking = tokio::task::spawn_blocking(move || asked.topics(&topics, CHECK_TIMEOUT));
        let Ok(answer) = asking.await else { return false };
        let mut health = self.health.lock();
        match answer {
            Ok(topics) => {
                if producer.can_send() {
                    producer.reports.forget_errors();
                }
                if !health.reachable {
                    tracing::info!(brokers = self.brokers(), "Kafka is reachable");
                }
                health.reachable = true;
                health.error = producer.reports.newest_error();
                health.update_topics(topics, &producer.identity, &self.metrics);
            }
            // The broker has answered, and then delays the next request for exceeding a quota.
            Err(_) if producer.reports.throttle_since(begun).is_some() => health.reachable = true,
            Err(error) => {
                health.reachable = false;
                health.error = Some(producer.reports.newest_error().unwrap_or_else(|| error.to_string()));
            }
        }
        self.metrics.kafka_reachable.set(i64::from(health.reachable));
        health.is_healthy()
    }

    /// Makes a producer to replace the current one.
    pub(super) fn successor(
        &self,
        credentials: Arc<Credentials>,
    ) -> impl Future<Output = Result<Arc<Producer>, KafkaError>> + Send + use<> {
        let generation = self.current().generation + 1;
        let (kafka, limits) = (self.kafka.clone(), self.limits.clone());
        let (metrics, statistics) = (Arc::clone(&self.metrics), Arc::clone(&self.statistics));
        Producer::make(kafka, credentials, limits, metrics, statistics, generation)
    }

    /// Makes `next` the producer that events go to.
    pub(super) fn switch_to(&self, next: Arc<Producer>, cause: &'static str) {
        tracing::info!(cause, "switched to a new Kafka producer");
        self.metrics.producer_rebuilds.get_or_create(&CauseLabel { cause }).inc();
        // One that cannot reach Kafka is not waited for.
        let patience = if self.health.lock().reachable { self.publish_timeout() } else { Duration::ZERO };
        next.set_in_use();
        let old = self.producer.send_replace(next);
        drop(tokio::task::spawn_blocking(move || old.retire(patience)));
    }

    /// Waits until nothing is in flight, or the publish deadline is over.
    pub async fn flush(&self) {
        let producer = self.current();
        let timeout = self.publish_timeout();
        match tokio::task::spawn_blocking(move || producer.flush(timeout)).await {
            Ok(Ok(())) => {}
            _ => tracing::warn!(
                "some events were not acknowledged before the shutdown; their senders were answered 503"
            ),
        }
    }
}
