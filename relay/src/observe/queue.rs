//! What is known of the queue that events are received from: its metrics, and its state for readiness and `/status`.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use parking_lot::Mutex;
use presenceroute_core::relay_status::QueueReport;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry, Unit};

use super::labels::{CodeLabel, ReasonLabel};
use super::request_log::RateLimitedLog;
use crate::outcome::ProblemKind;

/// The queue as the relay sees it.
pub struct Queue {
    pub metrics: QueueMetrics,
    state: Mutex<State>,
}

/// Counts and gauges of a queue, which only a relay with a queue has.
pub struct QueueMetrics {
    /// Messages received.
    pub received: Counter,
    /// Messages deleted, after Kafka acknowledged their events.
    pub deleted: Counter,
    returned: Family<ReasonLabel, Counter>,
    returned_in_all: Counter,
    /// Receives that brought no message.
    pub empty_receives: Counter,
    /// Messages received and neither deleted nor given back.
    pub held: Gauge,
    /// Calls that failed, by the service's code.
    pub errors: Family<CodeLabel, Counter>,
    /// From a message's SentTimestamp to the acknowledgement by Kafka, in seconds.
    pub delay: Histogram,
    readable: Gauge,
    oldest_age: Gauge,
    last_received: Gauge,
}

#[derive(Default)]
struct State {
    readable: bool,
    error: Option<String>,
    log: RateLimitedLog,
    /// When the oldest message of the last receive was sent, in milliseconds since 1970.
    oldest_sent: Option<u64>,
    last_received: Option<SystemTime>,
}

impl Queue {
    /// A queue that has not answered yet, with its metrics in `registry`.
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = QueueMetrics::new(registry);
        metrics.last_received.set(seconds_since_1970(SystemTime::now()));
        // While Kafka is away, nothing is received; that the queue cannot be read is not known then.
        metrics.readable.set(1);
        Arc::new(Self { metrics, state: Mutex::default() })
    }

    /// A receive was answered with messages, of which the oldest was sent at `oldest_sent` (milliseconds since 1970), or
    /// with none.
    pub fn answered(&self, messages: usize, oldest_sent: Option<u64>) {
        let mut state = self.state.lock();
        if !state.readable {
            tracing::info!("the queue is readable");
        }
        (state.readable, state.error) = (true, None);
        state.oldest_sent = oldest_sent;
        if messages == 0 {
            self.metrics.empty_receives.inc();
        } else {
            let now = SystemTime::now();
            state.last_received = Some(now);
            self.metrics.last_received.set(seconds_since_1970(now));
            self.metrics.received.inc_by(messages as u64);
        }
        drop(state);
        self.metrics.readable.set(1);
    }

    /// A receive failed.
    pub fn not_readable(&self, error: String) {
        let mut state = self.state.lock();
        let is_new = state.error.as_ref() != Some(&error);
        let repeated = state.log.count();
        if is_new || repeated.is_some() {
            tracing::warn!(%error, failures = repeated, "the queue cannot be read");
        }
        (state.readable, state.error) = (false, Some(error));
        drop(state);
        self.metrics.readable.set(0);
    }

    /// Whether the last receive was answered.
    pub fn is_readable(&self) -> bool {
        self.state.lock().readable
    }

    /// A message was given back to the queue, for this problem of its event.
    pub fn returned(&self, problem: ProblemKind) {
        self.metrics.returned.get_or_create(&ReasonLabel { reason: problem.name() }).inc();
        self.metrics.returned_in_all.inc();
    }

    /// Sets the gauge that grows while nothing is received.
    pub fn refresh(&self) {
        let age = age_seconds(self.state.lock().oldest_sent);
        self.metrics.oldest_age.set(i64::try_from(age).unwrap_or(i64::MAX));
    }

    /// What `/status` shows.
    pub fn report(&self) -> QueueReport {
        let state = self.state.lock();
        QueueReport {
            readable: state.readable,
            error: state.error.clone(),
            received: self.metrics.received.get(),
            deleted: self.metrics.deleted.get(),
            returned: self.metrics.returned_in_all.get(),
            oldest_age_seconds: age_seconds(state.oldest_sent),
            last_received: state
                .last_received
                .and_then(|time| Timestamp::try_from(time).ok())
                .map(|time| format!("{time:.0}")),
        }
    }
}

fn age_seconds(sent: Option<u64>) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    sent.map_or(0, |sent| now.saturating_sub(sent) / 1_000)
}

impl QueueMetrics {
    fn new(registry: &mut Registry) -> Self {
        // From a message that is published at once to one that waited for days.
        let delay = Histogram::new([
            0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 14_400.0,
            86_400.0,
        ]);
        registry.register_with_unit(
            "sqs_delay",
            "From a message's SentTimestamp to the acknowledgement of its event by Kafka",
            Unit::Seconds,
            delay.clone(),
        );
        let metrics = Self {
            received: metric(registry, "sqs_received_messages", "Messages received from the queue"),
            deleted: metric(
                registry,
                "sqs_deleted_messages",
                "Messages deleted from the queue, after Kafka acknowledged their events",
            ),
            returned: metric(
                registry,
                "sqs_returned_messages",
                "Messages given back to the queue, by the problem of their events",
            ),
            empty_receives: metric(registry, "sqs_empty_receives", "Receives that brought no message"),
            held: metric(
                registry,
                "sqs_held_messages",
                "Messages received and neither deleted nor given back",
            ),
            errors: metric(registry, "sqs_errors", "Calls to the queue that failed, by the service's code"),
            readable: metric(
                registry,
                "sqs_readable",
                "0 after a receive that failed, until one is answered",
            ),
            returned_in_all: Counter::default(),
            oldest_age: metric(
                registry,
                "sqs_oldest_message_age_seconds",
                "How long ago the oldest message of the last receive was sent to the queue; 0 after an empty receive",
            ),
            last_received: metric(
                registry,
                "sqs_last_received_timestamp_seconds",
                "When a message was received last, in seconds since 1970; when the relay started, while there was none",
            ),
            delay,
        };
        // There from the start: to Prometheus, a counter that appears with its first count has not increased.
        for problem in [
            ProblemKind::EventInvalid,
            ProblemKind::KafkaRefused,
            ProblemKind::KafkaUnavailable,
            ProblemKind::ShuttingDown,
        ] {
            drop(metrics.returned.get_or_create(&ReasonLabel { reason: problem.name() }));
        }
        for code in ["AccessDenied", "unanswered"] {
            drop(metrics.errors.get_or_create(&CodeLabel { code }));
        }
        metrics
    }
}

fn seconds_since_1970(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn metric<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Arc<Queue>, Registry) {
        let mut registry = Registry::default();
        (Queue::new(&mut registry), registry)
    }

    fn milliseconds_ago(milliseconds: u64) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        u64::try_from(now).unwrap() - milliseconds
    }

    #[test]
    fn the_oldest_age_grows_until_an_empty_receive() {
        let (queue, _registry) = queue();
        assert_eq!(queue.report(), QueueReport::default());
        queue.answered(10, Some(milliseconds_ago(90_500)));
        let report = queue.report();
        assert_eq!((report.readable, report.received, report.oldest_age_seconds), (true, 10, 90));
        assert!(report.last_received.is_some_and(|time| time.ends_with('Z')));
        queue.answered(0, None);
        assert_eq!((queue.report().oldest_age_seconds, queue.report().received), (0, 10));
    }

    #[test]
    fn a_failure_is_reported_until_a_receive_is_answered() {
        let (queue, _registry) = queue();
        queue.not_readable("AccessDenied".into());
        assert_eq!((queue.is_readable(), queue.report().error.as_deref()), (false, Some("AccessDenied")));
        queue.answered(0, None);
        assert_eq!((queue.is_readable(), queue.report().error), (true, None));
    }

    #[test]
    fn what_was_given_back_is_counted_by_its_problem() {
        let (queue, registry) = queue();
        queue.returned(ProblemKind::KafkaUnavailable);
        queue.returned(ProblemKind::KafkaUnavailable);
        queue.returned(ProblemKind::EventInvalid);
        assert_eq!(queue.report().returned, 3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"sqs_returned_messages_total{reason="kafka-unavailable"} 2"#), "{text}");
    }
}
