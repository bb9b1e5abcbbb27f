//! Getting an event into Kafka: acknowledged by all in-sync replicas of every topic it goes to, or an answer that
//! says why not.
//!
//! A [`Publisher`] owns the producer, and knows whether the cluster answers and has the table's topics; its
//! [`Supervisor`] replaces the producer when it can send no more or its credentials change. Which topics an event goes
//! to is `routing`'s to say.

mod credentials;
mod failure;
mod gate;
mod ledger;
mod native;
mod oauth;
mod producer;
mod record;
mod refusals;
mod remembered;
mod statistics;
mod supervisor;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use presenceroute_core::receipt::{Receipt, ReceiptRecord};
use presenceroute_core::relay_config::{KafkaConfig, Limits};
use presenceroute_core::relay_status::KafkaReport;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::time::timeout_at;

use crate::metrics::{CauseLabel, Metrics, Repeat, RepeatLabel, TopicLabel};
use crate::problem::{Kind, Problem};
use crate::routing::Target;

pub use credentials::CredentialsError;
pub use failure::Failure;
pub use record::{Position, Record, Trace, TraceHeaders};
pub use statistics::Statistics;
pub use supervisor::Supervisor;

use credentials::Credentials;
use ledger::{Begun, Bounds, Ledger};
use native::TopicState;
use producer::Producer;

/// How often a cluster that is well is asked for its topics.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// How often one that is not is asked.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

/// How long a broker may take to answer such a question.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The shortest life of a producer that fails, so that one that cannot be mended is not rebuilt without pause.
const REBUILD_EVERY: Duration = Duration::from_secs(1);

/// How often the files with credentials are read.
const CREDENTIALS_EVERY: Duration = Duration::from_millis(250);

/// Publishes events. It is shared by all requests of a relay.
pub struct Publisher {
    kafka: KafkaConfig,
    limits: Limits,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    producer: watch::Sender<Arc<Producer>>,
    cluster: Mutex<Cluster>,
}

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
struct Cluster {
    reachable: bool,
    error: Option<String>,
    /// Why the files with credentials cannot be read.
    unread_credentials: Option<String>,
    /// Why the newest credentials are not those in use.
    credentials_error: Option<String>,
    topics: Vec<TopicState>,
}

impl Cluster {
    fn topics_with(&self, is_so: impl Fn(RDKafkaErrorCode) -> bool) -> Vec<String> {
        let topics = self.topics.iter().filter(|topic| topic.error.is_some_and(&is_so));
        topics.map(|topic| topic.name.clone()).collect()
    }

    fn missing_topics(&self) -> Vec<String> {
        use RDKafkaErrorCode as Code;
        self.topics_with(|error| {
            matches!(error, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::InvalidTopic)
        })
    }

    fn forbidden_topics(&self) -> Vec<String> {
        self.topics_with(|error| error == RDKafkaErrorCode::TopicAuthorizationFailed)
    }

    /// What would keep a topic from acknowledging anything, as far as it shows.
    fn obstacle(&self, topic: &str) -> Option<String> {
        let state = self.topics.iter().find(|state| state.name == topic)?;
        let (in_sync, replicas) = state.least_in_sync;
        if state.without_leader > 0 {
            return Some(format!("{} partitions of {topic} have no leader", state.without_leader));
        }
        (in_sync < replicas).then(|| {
            format!("a partition of {topic} has {in_sync} of {replicas} replicas in sync (min.insync.replicas is what it needs)")
        })
    }
}

/// What a publisher knows of the cluster.
pub struct ClusterReport {
    /// The connection.
    pub kafka: KafkaReport,
    /// The table's topics that the cluster does not have.
    pub missing_topics: Vec<String>,
    /// The table's topics that it does not let the relay write to.
    pub forbidden_topics: Vec<String>,
}

/// Why a publisher cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// A file with credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The library refuses its configuration.
    #[error("the Kafka client cannot be made: {0}; check relay.yaml's kafka section")]
    Client(#[from] KafkaError),
}

impl Publisher {
    /// Makes the first producer, and what keeps it usable. It connects by itself; nothing waits for that.
    pub async fn new(
        kafka: KafkaConfig,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Supervisor), PublisherError> {
        let bounds = Bounds {
            in_flight: limits.max_in_flight,
            in_flight_bytes: limits.max_in_flight_bytes,
            remembered: limits.remembered_ids,
            remembered_for: Duration::from_millis(limits.remember_ms),
        };
        let credentials = Arc::new(Credentials::read(&kafka)?);
        let making =
            Producer::make(kafka.clone(), Arc::clone(&credentials), limits.clone(), Arc::clone(&metrics), 0);
        let first = making.await?;
        first.take_over();
        let publisher = Arc::new(Self {
            ledger: Ledger::new(bounds, Arc::clone(&metrics)),
            producer: watch::Sender::new(first),
            cluster: Mutex::default(),
            kafka,
            limits,
            metrics,
        });
        let supervisor = Supervisor::new(Arc::clone(&publisher), credentials);
        Ok((publisher, supervisor))
    }

    /// Publishes one event to every target, and answers when each has acknowledged it or one cannot. Its deadline counts
    /// from when the targets were `decided`, just now.
    ///
    /// An event that is answered 503 at the deadline stays in flight until Kafka has acknowledged it or
    /// `deliveryTimeoutMs` is over: Kafka may have it already. A repetition joins it, and one that comes later still
    /// finds it acknowledged. Where each topic has it is written into `receipt`, when there is one.
    pub async fn publish(
        &self,
        record: Record<'_>,
        targets: &[Target<'_>],
        decided: Instant,
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
            return match self.deliver_in_time(&record, target, decided).await {
                Ok(position) => {
                    note(target, position);
                    Ok(())
                }
                Err(failure) => Err(self.problem(&[(target, failure)])),
            };
        }
        let deliveries = targets.iter().map(|target| self.deliver_in_time(&record, target, decided));
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
        decided: Instant,
    ) -> Result<Option<Position>, Failure> {
        let deadline = decided + self.publish_timeout();
        match timeout_at(deadline.into(), self.deliver(record, target, decided)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Unavailable(RDKafkaErrorCode::MessageTimedOut)),
        }
    }

    /// One event to one topic, with as many producers as it takes. Where it is, is known only of one that was not
    /// acknowledged before.
    async fn deliver(
        &self,
        record: &Record<'_>,
        target: &Target<'_>,
        mut now: Instant,
    ) -> Result<Option<Position>, Failure> {
        let topic = target.topic.as_str();
        let fingerprint = self.ledger.fingerprint(&record.event.id, record.body, topic);
        let mut by_itself = false;
        loop {
            // It is held until the outcome is known, because it is what takes the reports.
            let mut producer = self.current();
            if by_itself {
                // In a place of its own: hardly an event comes here, and every request would have room for it.
                producer = match Box::pin(producer.companion()).await {
                    Ok(companion) => companion,
                    // Another producer has taken over.
                    Err(Failure::GivenBack) => continue,
                    Err(failure) => return Err(failure),
                };
                now = Instant::now();
            }
            let (outcome, gathering, is_first) = match self.ledger.begin(fingerprint, record.body.len(), now)
            {
                Begun::Acknowledged => {
                    self.repeated(Repeat::Remembered);
                    return Ok(None);
                }
                Begun::Full => return Err(Failure::Overloaded),
                Begun::Joined(outcome) => {
                    self.repeated(Repeat::Joined);
                    (outcome, None, false)
                }
                Begun::First(delivery, outcome) => {
                    (outcome, producer.send(record, target, delivery, now), true)
                }
            };
            let outcome = match gathering {
                None => outcome.await,
                Some(gathering) => gathering.until(outcome).await,
            };
            match outcome.unwrap_or(Err(Failure::Abandoned)) {
                Ok(position) => return Ok(Some(position)),
                Err(Failure::RefusedTogether) => by_itself = true,
                // Another producer than this one may have had it, or the same one sends it under a new epoch.
                Err(Failure::GivenBack) if !is_first || producer.can_send() => {}
                Err(Failure::GivenBack) => match producer.refusal() {
                    Some(refusal) => return Err(refusal),
                    // The next companion is made by whoever asks for it.
                    None if by_itself => {}
                    None => self.producer_after(producer.generation).await,
                },
                Err(failure) => return Err(failure),
            }
            now = Instant::now();
        }
    }

    async fn producer_after(&self, generation: u64) {
        // It fails only when the publisher is gone, and with it whoever waits here.
        let _ = self.producer.subscribe().wait_for(|producer| producer.generation > generation).await;
    }

    fn repeated(&self, outcome: Repeat) {
        self.metrics.repeated.get_or_create(&RepeatLabel { outcome }).inc();
    }

    fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.publish_timeout_ms)
    }

    /// The answer for what failed: what needs a person comes first, since a retry cannot help it.
    fn problem(&self, failures: &[(&Target<'_>, Failure)]) -> Problem {
        let account = self.producer.borrow().account.clone();
        let refused: Vec<String> = failures
            .iter()
            .filter_map(|(target, failure)| match failure {
                Failure::Refused(code) => Some(account.refusal(target.topic.as_str(), *code)),
                _ => None,
            })
            .collect();
        if !refused.is_empty() {
            return Problem::new(Kind::KafkaRefused, refused.join(". "));
        }
        if failures.iter().any(|(_, failure)| *failure == Failure::Overloaded) {
            let detail = format!(
                "{} deliveries or {} bytes are waiting for Kafka{}; send the event again later",
                self.limits.max_in_flight,
                self.limits.max_in_flight_bytes,
                self.obstacle(failures)
            );
            return Problem::new(Kind::Overloaded, detail);
        }
        let topics: Vec<&str> = failures.iter().map(|(target, _)| target.topic.as_str()).collect();
        let cause = self.obstacle(failures);
        let detail = format!(
            "{} did not acknowledge the event within {} ms{cause}; send the event again",
            topics.join(" and "),
            self.limits.publish_timeout_ms
        );
        Problem::new(Kind::KafkaUnavailable, detail)
    }

    /// Why Kafka takes its time, as far as that is known; it fits behind what it explains.
    fn obstacle(&self, failures: &[(&Target<'_>, Failure)]) -> String {
        let of_cluster = self.producer.borrow().reports.newest_error();
        let known = of_cluster.or_else(|| {
            let cluster = self.cluster();
            failures.iter().find_map(|(target, _)| cluster.obstacle(target.topic.as_str()))
        });
        known.map_or_else(String::new, |known| format!(" ({known})"))
    }

    fn brokers(&self) -> String {
        self.kafka.bootstrap_servers.join(",")
    }

    /// How many deliveries Kafka has not answered yet.
    pub fn in_flight(&self) -> usize {
        self.ledger.in_flight()
    }

    /// The connection, and which of the table's topics are out of reach.
    pub fn report(&self) -> ClusterReport {
        let account = self.producer.borrow().account.clone();
        let cluster = self.cluster().clone();
        let (missing_topics, forbidden_topics) = (cluster.missing_topics(), cluster.forbidden_topics());
        let refused = forbidden_topics
            .iter()
            .map(|topic| account.refusal(topic, RDKafkaErrorCode::TopicAuthorizationFailed))
            .reduce(|all, one| format!("{all}. {one}"));
        let error = cluster.unread_credentials.or(cluster.credentials_error).or(cluster.error).or(refused);
        let kafka = KafkaReport { reachable: cluster.reachable, error };
        ClusterReport { kafka, missing_topics, forbidden_topics }
    }

    fn cluster(&self) -> std::sync::MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer that events go to.
    fn current(&self) -> Arc<Producer> {
        Arc::clone(&self.producer.borrow())
    }

    /// Asks the cluster for the table's topics; whether it answered and has them all.
    async fn look(self: Arc<Self>, topics: Vec<String>) -> bool {
        let producer = self.current();
        let asked = Arc::clone(&producer);
        let asking = tokio::task::spawn_blocking(move || asked.topics(&topics, CHECK_TIMEOUT));
        let Ok(answer) = asking.await else { return false };
        let mut cluster = self.cluster();
        match answer {
            Ok(topics) => {
                if producer.can_send() {
                    producer.reports.forget_error();
                }
                if !cluster.reachable {
                    tracing::info!(brokers = self.brokers(), "Kafka answers");
                }
                cluster.reachable = true;
                cluster.error = producer.reports.newest_error();
                self.report_topics(&mut cluster, topics);
            }
            Err(error) => {
                cluster.reachable = false;
                cluster.error = Some(producer.reports.newest_error().unwrap_or_else(|| error.to_string()));
            }
        }
        self.metrics.kafka_reachable.set(i64::from(cluster.reachable));
        cluster.reachable && cluster.topics.iter().all(|topic| topic.error.is_none())
    }

    fn report_topics(&self, cluster: &mut Cluster, topics: Vec<TopicState>) {
        let (missing, forbidden) = (cluster.missing_topics(), cluster.forbidden_topics());
        cluster.topics = topics;
        let (now_missing, now_forbidden) = (cluster.missing_topics(), cluster.forbidden_topics());
        for topic in now_missing.iter().filter(|topic| !missing.contains(topic)) {
            tracing::warn!(
                topic,
                "this topic does not exist; create it: events for it are answered 503 until then"
            );
        }
        for topic in now_forbidden.iter().filter(|topic| !forbidden.contains(topic)) {
            let account = self.producer.borrow().account.to_string();
            tracing::warn!(
                topic,
                account,
                "this topic may not be written to; grant it: events for it are answered 503 until then"
            );
        }
        for topic in missing.iter().chain(&forbidden) {
            if !now_missing.contains(topic) && !now_forbidden.contains(topic) {
                tracing::info!(topic, "this topic is there now");
            }
        }
        let gauges =
            [(&self.metrics.missing_topics, now_missing), (&self.metrics.forbidden_topics, now_forbidden)];
        for (gauge, out_of_reach) in gauges {
            gauge.clear();
            for TopicState { name, .. } in &cluster.topics {
                let label = TopicLabel { topic: name.clone() };
                gauge.get_or_create(&label).set(i64::from(out_of_reach.contains(name)));
            }
        }
    }

    /// A producer beside the current one, to take over from it.
    fn successor(
        &self,
        credentials: Arc<Credentials>,
    ) -> impl Future<Output = Result<Arc<Producer>, KafkaError>> + Send + use<> {
        let generation = self.current().generation + 1;
        let (kafka, limits) = (self.kafka.clone(), self.limits.clone());
        Producer::make(kafka, credentials, limits, Arc::clone(&self.metrics), generation)
    }

    /// Makes `next` the producer that events go to.
    fn hand_over(&self, cause: &'static str, next: Arc<Producer>) {
        tracing::info!(cause, "a new Kafka producer takes over");
        self.metrics.producer_rebuilds.get_or_create(&CauseLabel { cause }).inc();
        // One that cannot reach Kafka any more is not waited for.
        let patience = if self.cluster().reachable { self.publish_timeout() } else { Duration::ZERO };
        next.take_over();
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
                "some events were not acknowledged before the end; their senders were answered 503"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::credentials::tests::Files;
    use super::*;
    use crate::event::Event;
    use crate::routing::{Decision, Router};
    use bytes::Bytes;
    use presenceroute_core::relay_config::SaslMechanism;
    use presenceroute_core::relay_config::{KafkaOauthConfig, KafkaSaslConfig};
    use presenceroute_core::routing::RoutingTable;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    use tokio_util::sync::CancellationToken;

    /// A publisher that is supervised, and the router of `{t: topic}`.
    async fn publisher(brokers: String) -> (Arc<Publisher>, Router) {
        let kafka = KafkaConfig { bootstrap_servers: vec![brokers], ..KafkaConfig::default() };
        let made = Publisher::new(kafka, Limits::default(), Arc::new(Metrics::new())).await;
        let (publisher, supervisor) = made.unwrap();
        let table = RoutingTable::parse("{t: topic}").unwrap();
        let loaded = watch::Sender::new(crate::reload::Loaded::fixed(Router::new(table.clone())));
        tokio::spawn(supervisor.run(loaded.subscribe(), CancellationToken::new()));
        (publisher, Router::new(table))
    }

    async fn publish(publisher: &Publisher, router: &Router, id: &str) -> Result<(), Problem> {
        publish_at(Instant::now(), publisher, router, id).await
    }

    async fn publish_at(
        decided: Instant,
        publisher: &Publisher,
        router: &Router,
        id: &str,
    ) -> Result<(), Problem> {
        let body = Bytes::from(format!(r#"{{"id":"{id}","eventType":"t"}}"#));
        let event = Event::parse(&body).unwrap();
        let Decision::Publish(targets) = router.route(&event).decision else { panic!("not routed") };
        let record = Record { event: &event, body: &body, trace: Trace::default(), unrouted_by: None };
        publisher.publish(record, &targets, decided, None).await
    }

    #[tokio::test]
    async fn a_producer_that_can_send_no_more_is_replaced_while_events_wait() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        publish(&publisher, &router, "before").await.unwrap();
        kafka.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
        let fail = async {
            while publisher.in_flight() == 0 {
                tokio::task::yield_now().await;
            }
            publisher.producer.borrow().fail_for_good();
        };
        let (during, ()) = tokio::join!(publish(&publisher, &router, "during"), fail);
        during.unwrap();
        publish(&publisher, &router, "after").await.unwrap();
        assert_eq!(publisher.producer.borrow().generation, 1);
        assert_eq!(publisher.in_flight(), 0);
    }

    /// How many records the Kafka library was given.
    fn handed_over(publisher: &Publisher) -> usize {
        let metrics = publisher.metrics.encode().unwrap();
        let count = metrics.lines().find_map(|line| {
            line.strip_prefix(r#"presenceroute_relay_publish_duration_seconds_count{stage="queue"} "#)
        });
        count.unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn records_that_wait_together_are_sent_when_the_sender_of_the_first_has_gone() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        // To the gate, all of them come at the same moment: the first opens it, and the others wait for a second.
        let moment = Instant::now() + Duration::from_secs(1);
        let mut senders = ["at once", "first", "second"]
            .map(|id| Box::pin(publish_at(moment, &publisher, &router, id)))
            .into_iter()
            .collect::<Vec<_>>();
        for sender in &mut senders {
            assert!(futures::poll!(sender).is_pending());
        }
        assert_eq!(handed_over(&publisher), 1);
        drop(senders.remove(1));
        assert_eq!(handed_over(&publisher), 3);
        for sender in senders {
            sender.await.unwrap();
        }
        publish(&publisher, &router, "first").await.unwrap();
    }

    /// What becomes of an event when the broker refuses the first record of a producer so; how long it takes, too.
    async fn published_after(refusal: RDKafkaRespErr) -> (Arc<Publisher>, Duration) {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        publish(&publisher, &router, "before").await.unwrap();
        kafka.request_errors(RDKafkaApiKey::Produce, &[refusal]);
        let sent = Instant::now();
        publish(&publisher, &router, "refused").await.unwrap();
        (publisher, sent.elapsed())
    }

    #[tokio::test]
    async fn an_event_of_an_epoch_that_is_over_is_sent_anew_by_the_same_producer() {
        let (publisher, took) =
            published_after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH).await;
        assert!(took < publisher.publish_timeout() / 2, "{took:?}");
        assert_eq!(publisher.producer.borrow().generation, 0);
    }

    #[tokio::test]
    async fn an_event_whose_number_is_not_the_next_is_sent_anew_by_another_producer() {
        let (publisher, _) =
            published_after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER).await;
        let metrics = publisher.metrics.encode().unwrap();
        assert!(metrics.contains(r#"producer_rebuilds_total{cause="fatal"} 1"#), "{metrics}");
    }

    const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

    /// Publishes so many events that wait for the first connection, and so go in one request, while the broker refuses
    /// as many requests as there are `refusals`. Gives what the events were answered.
    async fn gathered(
        count: usize,
        refusals: &[RDKafkaRespErr],
    ) -> (Arc<Publisher>, Vec<Result<(), Problem>>) {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
        kafka.request_errors(RDKafkaApiKey::Produce, refusals);
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        let ids: Vec<String> = (0..count).map(|id| id.to_string()).collect();
        let burst = ids.iter().map(|id| publish(&publisher, &router, id));
        let outcomes = futures::future::join_all(burst).await;
        assert_eq!(publisher.in_flight(), 0);
        (publisher, outcomes)
    }

    fn published(publisher: &Publisher) -> Option<usize> {
        let metrics = publisher.metrics.encode().unwrap();
        let counter = r#"presenceroute_relay_events_published_total{topic="topic"} "#;
        metrics.lines().find_map(|line| line.strip_prefix(counter)).map(|count| count.parse().unwrap())
    }

    #[tokio::test]
    async fn events_that_kafka_refuses_together_are_sent_again_each_by_itself() {
        let (publisher, outcomes) = gathered(20, &[TOO_LARGE]).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!((published(&publisher), handed_over(&publisher)), (Some(20), 40));
        assert_eq!(publisher.producer.borrow().generation, 0);
    }

    #[tokio::test]
    async fn of_events_that_kafka_refuses_together_only_that_is_refused_which_it_refuses_by_itself() {
        let (publisher, outcomes) = gathered(20, &[TOO_LARGE; 2]).await;
        let refused: Vec<&Problem> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
        assert!(matches!(refused[..], [problem] if problem.kind == Kind::KafkaRefused), "{refused:?}");
        assert_eq!(published(&publisher), Some(19));
    }

    #[tokio::test]
    async fn an_event_that_kafka_refuses_by_itself_is_not_sent_again() {
        let (publisher, outcomes) = gathered(1, &[TOO_LARGE]).await;
        assert!(
            matches!(&outcomes[..], [Err(problem)] if problem.kind == Kind::KafkaRefused),
            "{outcomes:?}"
        );
        assert_eq!(handed_over(&publisher), 1);
    }

    #[tokio::test]
    async fn a_repetition_of_an_event_that_kafka_refuses_together_with_others_makes_no_second_record() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
        kafka.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE]);
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        let burst = ["1", "2", "1", "2", "1"].map(|id| publish(&publisher, &router, id));
        let outcomes = futures::future::join_all(burst).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!((published(&publisher), handed_over(&publisher)), (Some(2), 4));
    }

    #[tokio::test]
    async fn what_is_sent_by_itself_goes_on_when_the_producer_for_it_can_send_no_more() {
        let kafka = MockCluster::new(1).unwrap();
        let (publisher, _) = publisher(kafka.bootstrap_servers()).await;
        let current = publisher.current();
        let companion = current.companion().await.unwrap();
        companion.fail_for_good();
        let lost = async {
            while companion.can_send() {
                tokio::time::sleep(Duration::from_millis(1)).await
            }
        };
        tokio::time::timeout(Duration::from_secs(10), lost).await.unwrap();
        let next = current.companion().await.unwrap();
        assert!(next.can_send() && !Arc::ptr_eq(&next, &companion));
        assert!(current.can_send(), "the producer itself is well");
    }

    #[tokio::test]
    async fn what_is_sent_by_itself_gets_there_when_another_producer_takes_over() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
        kafka.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE]);
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        let old = publisher.current();
        let ids: Vec<String> = (0..20).map(|id| id.to_string()).collect();
        let burst = futures::future::join_all(ids.iter().map(|id| publish(&publisher, &router, id)));
        let replace = async {
            while handed_over(&publisher) < 40 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let credentials = Arc::new(Credentials::read(&publisher.kafka).unwrap());
            let next = publisher.successor(credentials).await.unwrap();
            publisher.hand_over("credentials", next);
        };
        let (outcomes, ()) = tokio::join!(burst, replace);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let ended = async {
            while !matches!(old.companion().await, Err(Failure::GivenBack)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    }

    #[tokio::test]
    async fn events_that_wait_are_refused_at_once_when_nobody_may_write_to_the_cluster() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_millis(100)).unwrap();
        let refusals = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 10];
        kafka.request_errors(RDKafkaApiKey::InitProducerId, &refusals);
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        let sent = Instant::now();
        let problem = publish(&publisher, &router, "1").await.unwrap_err();
        assert_eq!(problem.kind, Kind::KafkaRefused, "{problem:?}");
        assert!(sent.elapsed() < publisher.publish_timeout() / 2, "{:?}", sent.elapsed());
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_had_is_what_the_report_names() {
        let files = Files::new();
        let oauth = KafkaOauthConfig {
            token_endpoint_url: "http://127.0.0.1:1/token".into(),
            scope: None,
            ca_file: None,
        };
        let sasl = KafkaSaslConfig { oauth: Some(oauth), ..files.sasl(SaslMechanism::OauthBearer, "hush") };
        let bootstrap_servers = vec!["127.0.0.1:1".into()];
        let kafka = KafkaConfig { bootstrap_servers, sasl: Some(sasl), ..KafkaConfig::default() };
        let (publisher, _) =
            Publisher::new(kafka, Limits::default(), Arc::new(Metrics::new())).await.unwrap();
        let told = async {
            loop {
                let known = publisher.producer.borrow().reports.newest_error();
                match known.filter(|error| error.contains("token endpoint http://127.0.0.1:1/token")) {
                    Some(error) => break error,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(10), told).await.unwrap();
        assert!(!error.contains("hush"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_of_the_cluster_is_counted_once() {
        let kafka = MockCluster::new(1).unwrap();
        let (publisher, _) = publisher(kafka.bootstrap_servers()).await;
        publisher.producer.borrow().fail_for_good();
        let mut replaced = publisher.producer.subscribe();
        replaced.wait_for(|producer| producer.generation == 1).await.unwrap();
        let metrics = publisher.metrics.encode().unwrap();
        assert!(
            metrics.contains(r#"kafka_errors_total{topic="",kind="OutOfOrderSequenceNumber"} 1"#),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn a_burst_is_handed_over_in_few_requests_and_each_event_is_acknowledged() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        let ids: Vec<String> = (0..500).map(|id| id.to_string()).collect();
        let burst = ids.iter().map(|id| publish(&publisher, &router, id));
        assert!(futures::future::join_all(burst).await.into_iter().all(|outcome| outcome.is_ok()));
        assert_eq!(publisher.in_flight(), 0);
    }

    #[tokio::test]
    async fn an_event_whose_sender_leaves_while_it_waits_for_others_is_sent_all_the_same() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic("topic", 1, 1).unwrap();
        let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
        publish(&publisher, &router, "before").await.unwrap();
        let first = publish(&publisher, &router, "first");
        let mut second = Box::pin(publish(&publisher, &router, "second"));
        // Within a moment of each other, so that the second waits.
        let first =
            async { futures::join!(first, async { assert!(futures::poll!(&mut second).is_pending()) }) };
        first.await.0.unwrap();
        drop(second);
        while publisher.in_flight() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let published = publisher.metrics.encode().unwrap();
        assert!(
            published.contains(r#"presenceroute_relay_events_published_total{topic="topic"} 3"#),
            "{published}"
        );
    }
}
