//! An event's way from a source to Kafka: routed by the table in force, published to every topic, its outcome logged and
//! traced.
//!
//! Every source uses it alike, pushed or pulled, and it knows nothing of how they receive or acknowledge.

pub mod table;

use std::borrow::Cow;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use presenceroute_core::receipt::Receipt;
use presenceroute_core::routing::RejectStatus;
use presenceroute_runtime::follow::Reloaded;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::kafka::{DeadLetter, Publisher, Record};
use crate::observe::metrics::{Metrics, seconds};
use crate::observe::request_log::RequestLog;
use crate::observe::spans::{EventSpan, Spans};
use crate::observe::trace_context::Trace;
use crate::outcome::{Delivered, FILTERED, Outcome, Problem, ProblemKind, escaped};
use presenceroute_core::event::Event;
use presenceroute_core::routing::{ContentMode, Decision, Router, Target};

/// Delivers events. All sources of a relay share one.
pub struct Pipeline {
    routing: watch::Receiver<Reloaded<Router>>,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    log: Arc<RequestLog>,
    spans: Option<Arc<Spans>>,
    /// Whether a sender is told that its event is rejected.
    rejects: bool,
    closed: AtomicBool,
}

/// An event that was verified, as a source received it.
#[derive(Clone, Copy)]
pub struct Incoming<'a> {
    pub event: &'a Event<'a>,
    /// What becomes the record's value.
    pub value: &'a Bytes,
    /// The trace that the source names.
    pub trace: Trace<'a>,
    /// When it had been received completely.
    pub received: Instant,
    /// When its span begins; see [`Pipeline::span_start`].
    pub span_start: Option<SystemTime>,
}

/// What was verified and cannot be delivered as an event, as a source received it.
pub struct Invalid<'a> {
    /// Why. It is the answer where the table has no topic for what is invalid.
    pub problem: Problem,
    /// The event, where it can be read all the same.
    pub event: Option<&'a Event<'a>>,
    /// What becomes the record's value.
    pub value: &'a Bytes,
    /// The content encoding that the sender names.
    pub content_encoding: Option<&'a str>,
    /// The trace that the source names.
    pub trace: Trace<'a>,
}

impl Pipeline {
    /// A pipeline of these parts.
    pub fn new(
        routing: watch::Receiver<Reloaded<Router>>,
        publisher: Arc<Publisher>,
        metrics: Arc<Metrics>,
        log: Arc<RequestLog>,
        spans: Option<Arc<Spans>>,
    ) -> Self {
        Self { routing, publisher, metrics, log, spans, rejects: true, closed: AtomicBool::new(false) }
    }

    /// The same for a source that pulls, which has no sender to tell: what the table rejects is dropped.
    #[must_use]
    pub fn without_rejection(self) -> Self {
        Self { rejects: false, ..self }
    }

    /// Whether an event can be delivered, as far as is known: a broker answers, and there is a routing table.
    pub fn can_deliver(&self) -> bool {
        self.routing.borrow().current.is_some() && self.publisher.is_reachable()
    }

    /// The time at which an event's span begins, where there are spans. A source calls this when it begins to receive.
    pub fn span_start(&self) -> Option<SystemTime> {
        self.spans.as_ref().map(|_| SystemTime::now())
    }

    /// Routes an event, and returns when every topic has acknowledged it or one cannot. The records' positions are added
    /// to `receipt`, when there is one.
    ///
    /// A problem that [is transient](ProblemKind::is_transient) is worth delivering the event again for.
    pub async fn deliver(
        &self,
        incoming: &Incoming<'_>,
        receipt: Option<&mut Receipt>,
    ) -> Result<Delivered, Problem> {
        let span = self.begin_span(incoming);
        let trace = span.as_ref().map_or(incoming.trace, |span| span.trace(incoming.trace));
        let record = Record { event: Some(incoming.event), body: incoming.value, trace, dead_letter: None };
        let result = self.route_and_publish(&record, incoming, receipt).await;
        if let Ok(delivered) = result {
            self.log.accepted(delivered, &incoming.event.id, record.trace);
        }
        if let Some(span) = span {
            span.end(Outcome::from(&result));
        }
        result.map_err(|problem| {
            let problem = problem.about(&incoming.event.id);
            self.log.rejected(&problem, incoming.trace);
            problem
        })
    }

    /// Publishes what is invalid to the table's topic for that, and returns when the topic has acknowledged it. Without
    /// such a topic, and where it does not acknowledge, the answer is a problem.
    pub async fn deliver_invalid(
        &self,
        invalid: Invalid<'_>,
        receipt: Option<&mut Receipt>,
    ) -> Result<Delivered, Problem> {
        let published = self.publish_invalid(&invalid, receipt).await;
        let id = invalid.event.map(|event| event.id.as_ref());
        match published {
            Ok(topic) => {
                self.log.dead_lettered(&invalid.problem, &topic, id, invalid.trace);
                Ok(Delivered::InvalidDeadLettered)
            }
            Err(problem) => {
                let problem = match id {
                    Some(id) => problem.about(id),
                    None => problem,
                };
                self.log.rejected(&problem, invalid.trace);
                Err(problem)
            }
        }
    }

    /// Whether a body that is no event is more than rejected: the table has a topic for it, or is not known yet.
    pub fn keeps_invalid(&self) -> bool {
        let routing = self.routing.borrow();
        routing.current.as_ref().is_none_or(|router| router.table().unmatched().invalid().is_some())
    }

    /// Returns the topic that has it.
    async fn publish_invalid(
        &self,
        invalid: &Invalid<'_>,
        receipt: Option<&mut Receipt>,
    ) -> Result<String, Problem> {
        let router = self.router()?;
        let Some(kept) = router.table().unmatched().invalid() else {
            return Err(invalid.problem.clone());
        };
        self.check_open()?;
        let dead_letter = DeadLetter {
            reason: invalid.problem.kind.name(),
            detail: Some(&invalid.problem.detail),
            content_encoding: invalid.content_encoding,
            revision: router.table().revision(),
        };
        let key = match invalid.event {
            Some(event) => Cow::Borrowed(event.id.as_ref()),
            // The same for a redelivery, and spread over the partitions.
            None => Cow::Owned(HEXLOWER.encode(&Sha256::digest(invalid.value))),
        };
        let record =
            Record { event: invalid.event, body: invalid.value, trace: invalid.trace, dead_letter: None };
        let target = Target { topic: &kept.topic, key, content_mode: ContentMode::Binary };
        self.publish_dead_letter(&record, dead_letter, &target, Instant::now(), receipt).await?;
        Ok(kept.topic.to_string())
    }

    async fn publish_dead_letter(
        &self,
        record: &Record<'_>,
        dead_letter: DeadLetter<'_>,
        target: &Target<'_>,
        decided_at: Instant,
        receipt: Option<&mut Receipt>,
    ) -> Result<(), Problem> {
        let record = Record { dead_letter: Some(&dead_letter), ..*record };
        self.publisher.publish(&record, slice::from_ref(target), decided_at, receipt).await
    }

    /// Rejects what still comes: the relay is about to end, and waits for what Kafka has.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    async fn route_and_publish(
        &self,
        record: &Record<'_>,
        incoming: &Incoming<'_>,
        receipt: Option<&mut Receipt>,
    ) -> Result<Delivered, Problem> {
        let router = self.router()?;
        let routed = router.route(incoming.event);
        if routed.failed_conditions > 0 {
            self.metrics.failed_conditions.inc_by(routed.failed_conditions);
        }
        let routed_at = Instant::now();
        self.metrics.stages.verify.observe(seconds(routed_at.duration_since(incoming.received)));
        // By reference: every request's future has room for what is moved out of it.
        match &routed.decision {
            Decision::Publish(targets) => {
                self.check_open()?;
                self.publisher.publish(record, targets, routed_at, receipt).await?;
                Ok(Delivered::Published)
            }
            Decision::DeadLetter(target) => {
                self.check_open()?;
                let dead_letter = DeadLetter {
                    reason: ProblemKind::Unrouted.name(),
                    detail: None,
                    content_encoding: None,
                    revision: router.table().revision(),
                };
                // Boxed: most events have a route, and their future would have room for it.
                Box::pin(self.publish_dead_letter(record, dead_letter, target, routed_at, receipt)).await?;
                Ok(Delivered::DeadLettered)
            }
            Decision::Filtered => {
                if let Some(receipt) = receipt {
                    receipt.status = FILTERED.into();
                }
                Ok(Delivered::Filtered)
            }
            Decision::Drop => Ok(Delivered::Dropped),
            Decision::Reject(_) if !self.rejects => Ok(Delivered::Dropped),
            Decision::Reject(status) => Err(unrouted(*status, incoming.event, routed.is_named)),
        }
    }

    fn begin_span(&self, incoming: &Incoming<'_>) -> Option<Box<EventSpan>> {
        let start = incoming.span_start?;
        Some(self.spans.as_ref()?.begin(incoming.event, incoming.trace, start))
    }

    fn router(&self) -> Result<Arc<Router>, Problem> {
        let current = self.routing.borrow().current.clone();
        current.ok_or_else(|| {
            Problem::new(ProblemKind::NotConfigured, "no routing table has been loaded; see /status")
        })
    }

    fn check_open(&self) -> Result<(), Problem> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Problem::new(
                ProblemKind::ShuttingDown,
                "send the event again; another relay takes it",
            ));
        }
        Ok(())
    }
}

fn unrouted(status: RejectStatus, event: &Event<'_>, is_named: bool) -> Problem {
    let kind = match status {
        RejectStatus::NotFound => ProblemKind::Unrouted,
        RejectStatus::BadRequest => ProblemKind::UnroutedRetry,
    };
    let event_type = escaped(&event.event_type);
    let detail = if is_named {
        format!(
            "the conditions of all routes that name the event type {event_type} are false; change one, or remove \
             unmatched.includeFiltered"
        )
    } else {
        format!("no route names the event type {event_type}; add one")
    };
    Problem::new(kind, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka;
    use presenceroute_core::relay_config::{KafkaConfig, Limits};
    use presenceroute_core::routing::RoutingTable;
    use presenceroute_runtime::follow;
    use rdkafka::mocking::MockCluster;
    use std::time::Duration;

    /// A pipeline to these brokers, with the table `{t: topic}`.
    async fn pipeline(brokers: &str) -> Pipeline {
        let table = RoutingTable::parse("{t: topic}").unwrap();
        pipeline_by(follow::fixed(Router::new(table)), brokers).await
    }

    async fn pipeline_by(routing: watch::Receiver<Reloaded<Router>>, brokers: &str) -> Pipeline {
        let kafka = KafkaConfig { bootstrap_servers: vec![brokers.into()], ..KafkaConfig::default() };
        let metrics = Arc::new(Metrics::new());
        let (publisher, _) = kafka::start(kafka, Limits::default(), Arc::clone(&metrics)).await.unwrap();
        Pipeline::new(routing, publisher, metrics, Arc::new(RequestLog::new(None)), None)
    }

    async fn deliver(
        pipeline: &Pipeline,
        event_type: &str,
        id: &str,
    ) -> (Result<Delivered, Problem>, Receipt) {
        let value = Bytes::from(format!(r#"{{"id":"{id}","eventType":"{event_type}"}}"#));
        let event = Event::parse(&value).unwrap();
        let incoming = Incoming {
            event: &event,
            value: &value,
            trace: Trace::default(),
            received: Instant::now(),
            span_start: pipeline.span_start(),
        };
        let mut receipt = Receipt::default();
        (pipeline.deliver(&incoming, Some(&mut receipt)).await, receipt)
    }

    /// What a source that pulls its events needs, which has no HTTP: it delivers, and acknowledges what was delivered.
    #[tokio::test]
    async fn a_pulled_event_is_delivered_without_http() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        let pipeline = pipeline(&kafka.bootstrap_servers()).await;
        let queue = ["1", "2", "1"];
        let mut acknowledged = Vec::new();
        for id in queue {
            let (result, receipt) = deliver(&pipeline, "t", id).await;
            assert_eq!(result.unwrap(), Delivered::Published);
            acknowledged.push((receipt.records[0].topic.clone(), receipt.records[0].offset));
        }
        let offsets = acknowledged.iter().map(|(_, offset)| *offset).collect::<Vec<_>>();
        // The third is a duplicate, and makes no record.
        assert_eq!(offsets, [Some(0), Some(1), None]);
        let (result, receipt) = deliver(&pipeline, "other", "3").await;
        assert_eq!((result.unwrap_err().kind, receipt.records.len()), (ProblemKind::Unrouted, 0));
    }

    #[tokio::test]
    async fn a_pulled_event_that_kafka_lacks_is_to_be_pulled_again() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
        let pipeline = pipeline(&kafka.bootstrap_servers()).await;
        let (result, _) = deliver(&pipeline, "t", "1").await;
        let problem = result.unwrap_err();
        assert!(problem.kind.is_transient(), "{problem:?}");
    }

    #[tokio::test]
    async fn what_is_rejected_is_dropped_where_no_sender_hears_of_it() {
        let pipeline = pipeline("127.0.0.1:1").await.without_rejection();
        let (result, _) = deliver(&pipeline, "other", "1").await;
        assert_eq!(result.unwrap(), Delivered::Dropped);
    }

    async fn deliver_invalid(pipeline: &Pipeline) -> Problem {
        let value = Bytes::from_static(b"not json");
        let invalid = Invalid {
            problem: Problem::new(ProblemKind::EventInvalid, "it is none"),
            event: None,
            value: &value,
            content_encoding: None,
            trace: Trace::default(),
        };
        pipeline.deliver_invalid(invalid, None).await.unwrap_err()
    }

    /// The table may have a topic for it.
    #[tokio::test]
    async fn without_a_table_an_invalid_event_is_to_be_sent_again() {
        let none = watch::Sender::new(Reloaded::not_loaded("none")).subscribe();
        let pipeline = pipeline_by(none, "127.0.0.1:1").await;
        assert!(pipeline.keeps_invalid());
        assert_eq!(deliver_invalid(&pipeline).await.kind, ProblemKind::NotConfigured);
    }

    #[tokio::test]
    async fn an_invalid_event_is_its_own_problem_where_no_topic_takes_it() {
        let pipeline = pipeline("127.0.0.1:1").await;
        assert!(!pipeline.keeps_invalid());
        let problem = deliver_invalid(&pipeline).await;
        assert_eq!((problem.kind, problem.detail.as_ref()), (ProblemKind::EventInvalid, "it is none"));
    }

    #[tokio::test]
    async fn a_closed_pipeline_takes_no_invalid_event() {
        let table = "version: 1\nroutes: [{eventType: t, topic: topic}]\nunmatched: {action: Drop, invalid: {topic: bad}}\n";
        let routing = follow::fixed(Router::new(RoutingTable::parse(table).unwrap()));
        let pipeline = pipeline_by(routing, "127.0.0.1:1").await;
        pipeline.close();
        assert_eq!(deliver_invalid(&pipeline).await.kind, ProblemKind::ShuttingDown);
        assert_eq!(pipeline.publisher.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_closed_pipeline_hands_nothing_to_kafka() {
        let pipeline = pipeline("127.0.0.1:1").await;
        pipeline.close();
        let (result, _) = deliver(&pipeline, "t", "1").await;
        assert_eq!(result.unwrap_err().kind, ProblemKind::ShuttingDown);
        assert_eq!(pipeline.publisher.in_flight(), 0);
    }
}
