//! One Kafka producer, from its configuration to its end.
//!
//! It is idempotent and waits for all in-sync replicas. It retries by itself, beyond the time that a sender waits: a
//! broker that hangs may have a record already, and only the producer that sent it can send it again without a duplicate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use presenceroute_core::relay_config::{KafkaConfig, Limits};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::task::JoinHandle;

use super::batcher::{Batcher, Message, PendingBatch};
use super::callbacks::{BatchSize, Callbacks, Reports, Topic};
use super::config::configuration;
use super::credentials::Credentials;
use super::failure::{Failure, KafkaIdentity};
use super::in_flight::Delivery;
use super::librdkafka::{self, Client, EventQueue, Purge, TopicState};
use super::record::Record;
use super::statistics::Statistics;
use super::{batch_rejections, tokens};
use crate::observe::metrics::Metrics;
use presenceroute_core::routing::Target;

/// How long a broker may take to answer a question about the cluster.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// The shortest life of a producer that fails, so that one that cannot work is not replaced without pause.
pub(super) const REBUILD_EVERY: Duration = Duration::from_secs(1);

/// How long the delivery reports of purged records may take.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a producer is made from.
#[derive(Clone)]
struct Recipe {
    kafka: KafkaConfig,
    credentials: Arc<Credentials>,
    limits: Limits,
    metrics: Arc<Metrics>,
    statistics: Arc<Statistics>,
    generation: u64,
}

/// The producer beside a producer that sends each record alone.
enum SingleRecordProducer {
    /// No batch was rejected yet.
    Unneeded,
    Made(Arc<Producer>),
    /// The producer was retired, and this one with it.
    Ended,
}

pub(super) struct Producer {
    client: Client<Callbacks>,
    topics: RwLock<HashMap<String, Arc<Topic>, foldhash::fast::RandomState>>,
    pub(super) reports: Arc<Reports>,
    pub(super) identity: KafkaIdentity,
    batcher: Arc<Batcher>,
    pub(super) born: tokio::time::Instant,
    /// Which of the relay's producers it is: a later one has a higher number.
    pub(super) generation: u64,
    serving: JoinHandle<()>,
    /// Gets tokens, with OAUTHBEARER.
    supplying: Option<JoinHandle<()>>,
    recipe: Recipe,
    single_record: tokio::sync::Mutex<SingleRecordProducer>,
}

impl Producer {
    /// Makes one, on a thread of its own: the library reads bundles of certificates and starts threads meanwhile.
    pub(super) async fn make(
        kafka: KafkaConfig,
        credentials: Arc<Credentials>,
        limits: Limits,
        metrics: Arc<Metrics>,
        statistics: Arc<Statistics>,
        generation: u64,
    ) -> Result<Arc<Self>, KafkaError> {
        let recipe = Recipe { kafka, credentials, limits, metrics, statistics, generation };
        Self::make_from(recipe, BatchSize::Many).await
    }

    async fn make_from(recipe: Recipe, batch_size: BatchSize) -> Result<Arc<Self>, KafkaError> {
        let made = tokio::task::spawn_blocking(move || Self::new(recipe, batch_size).map(Arc::new)).await;
        made.unwrap_or_else(|error| Err(KafkaError::ClientCreation(error.to_string())))
    }

    fn new(recipe: Recipe, batch_size: BatchSize) -> Result<Self, KafkaError> {
        let Recipe { kafka, credentials, limits, metrics, statistics, generation } = &recipe;
        let generation = *generation;
        let mut config = configuration(kafka, limits);
        if batch_size == BatchSize::One {
            config.set("batch.num.messages", "1");
        }
        for (name, value) in credentials.properties() {
            config.set(name, value);
        }
        let identity = KafkaIdentity::new(kafka);
        let reports = Arc::new(Reports::new(Arc::clone(metrics), identity.clone()));
        let batcher = Arc::new(Batcher::new(Arc::clone(&reports)));
        let callbacks = Callbacks::new(Arc::clone(&reports), Arc::clone(statistics), generation, batch_size);
        let client = librdkafka::create(&config, callbacks)?;
        let events = EventQueue::new(&client);
        let serving = tokio::spawn(serve(events, Arc::clone(&batcher), Arc::clone(&reports)));
        let supplying = credentials
            .tokens()
            .map(|source| tokio::spawn(tokens::supply(Arc::clone(&client), source.clone())));
        Ok(Self {
            client,
            topics: RwLock::default(),
            reports,
            identity,
            batcher,
            born: tokio::time::Instant::now(),
            generation,
            serving,
            supplying,
            recipe,
            single_record: tokio::sync::Mutex::new(SingleRecordProducer::Unneeded),
        })
    }

    /// Produces one record, now or together with others. Its outcome is reported to `delivery`, also when that is at
    /// once.
    pub(super) fn send(
        &self,
        record: &Record<'_>,
        target: &Target<'_>,
        delivery: Delivery,
        now: Instant,
    ) -> Option<PendingBatch> {
        if !self.can_send() {
            delivery.finish(Err(self.reports.failure(RDKafkaErrorCode::Fatal)));
            return None;
        }
        let topic = self.topic(target.topic.as_str());
        let (Some(topic), Some((value, headers))) = (topic, record.content(target.content_mode)) else {
            delivery.finish(Err(Failure::from_code(RDKafkaErrorCode::CriticalSystemResource)));
            return None;
        };
        self.batcher.send(Message {
            topic,
            key: target.key.as_bytes().into(),
            value,
            headers,
            delivery,
            since: now,
        })
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        let known = self.topics.read().get(name).cloned();
        if known.is_some() {
            return known;
        }
        let topic = Arc::new(Topic::new(&self.client, name, &self.reports.metrics)?);
        Some(Arc::clone(self.topics.write().entry(name.to_owned()).or_insert(topic)))
    }

    /// Asks the cluster for the state of `names`, each of which is in the answer. With no topic, the question is whether
    /// the cluster answers.
    pub(super) fn topics(&self, names: &[String], timeout: Duration) -> Result<Vec<TopicState>, KafkaError> {
        let known: Vec<_> = names.iter().filter_map(|name| self.topic(name)).collect();
        if known.is_empty() {
            return self.client.client().fetch_metadata(None, timeout).map(|_| Vec::new());
        }
        let mut found =
            librdkafka::topics_in_use(&self.client, timeout).map_err(KafkaError::MetadataFetch)?;
        Ok(names.iter().map(|name| found.remove(name).unwrap_or_else(|| TopicState::missing(name))).collect())
    }

    /// Whether a broker authenticates it and answers within `timeout`.
    pub(super) fn is_authenticated(&self, timeout: Duration) -> bool {
        // Every client asks by itself for the cluster's brokers, and the cluster's id is in the answer.
        self.client.client().fetch_cluster_id(timeout).is_some()
    }

    /// From now on events go to it.
    pub(super) fn set_in_use(&self) {
        self.reports.set_in_use();
    }

    pub(super) fn can_send(&self) -> bool {
        self.reports.fatal().is_none()
    }

    /// Why it failed for good, where another producer would be rejected, too.
    pub(super) fn rejection(&self) -> Option<Failure> {
        let failure = self.reports.failure(self.reports.fatal()?);
        matches!(failure, Failure::Rejected(_)).then_some(failure)
    }

    /// A producer that sends each record alone, for those that were rejected in a batch. This one cannot: the library
    /// batches what waits, and new records come all the time.
    ///
    /// It is made when it is first needed, since most topics accept what they are sent, and lives as long as this one.
    pub(super) async fn single_record_producer(&self) -> Result<Arc<Self>, Failure> {
        let mut single_record = self.single_record.lock().await;
        let failed = match &*single_record {
            SingleRecordProducer::Unneeded => None,
            SingleRecordProducer::Made(made) if made.can_send() => return Ok(Arc::clone(made)),
            SingleRecordProducer::Made(failed) => Some(Arc::clone(failed)),
            // There is another producer by now.
            SingleRecordProducer::Ended => return Err(Failure::Returned),
        };
        if let Some(failed) = &failed {
            tokio::time::sleep_until(failed.born + REBUILD_EVERY).await;
        }
        let made = Self::make_from(self.recipe.clone(), BatchSize::One).await.map_err(|error| {
            tracing::error!(%error, "cannot make the Kafka producer that sends records one by one");
            Failure::Unavailable(RDKafkaErrorCode::CriticalSystemResource)
        })?;
        *single_record = SingleRecordProducer::Made(Arc::clone(&made));
        if let Some(failed) = failed {
            drop(tokio::task::spawn_blocking(move || failed.retire(Duration::ZERO)));
        }
        Ok(made)
    }

    /// Waits until it fails for good, and returns why.
    pub(super) async fn failed(&self) -> RDKafkaErrorCode {
        self.reports.failed().await
    }

    /// Ends it after another producer replaced it. What it has sent is given `patience` to be acknowledged, because only
    /// this producer can tell whether it was; the rest ends as [`Failure::Returned`]. The same holds for its
    /// single-record producer.
    pub(super) fn retire(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let single_record =
            std::mem::replace(&mut *self.single_record.blocking_lock(), SingleRecordProducer::Ended);
        self.flush_or_purge(patience);
        if let SingleRecordProducer::Made(producer) = single_record {
            producer.flush_or_purge(until.saturating_duration_since(Instant::now()));
        }
    }

    fn flush_or_purge(&self, patience: Duration) {
        if !self.can_send() {
            self.client.purge(Purge::Queued);
        }
        if self.flush_own(patience).is_err() {
            self.client.purge(Purge::All);
            // The reports of what was purged come only while this producer is alive.
            let _ = self.flush_own(REPORT_TIMEOUT);
        }
    }

    /// Waits until every record has its report, also those of its single-record producer, or the time is over.
    pub(super) fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let until = Instant::now() + timeout;
        self.flush_own(timeout)?;
        let single_record = match &*self.single_record.blocking_lock() {
            SingleRecordProducer::Made(producer) => Arc::clone(producer),
            SingleRecordProducer::Unneeded | SingleRecordProducer::Ended => return Ok(()),
        };
        single_record.flush_own(until.saturating_duration_since(Instant::now()))
    }

    fn flush_own(&self, timeout: Duration) -> Result<(), KafkaError> {
        self.batcher.flush();
        self.client.flush(timeout)
    }

    /// Makes it fail for good.
    #[cfg(test)]
    pub(super) fn fail_for_good(&self) {
        librdkafka::fail_for_good(&self.client);
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.serving.abort();
        self.supplying.iter().for_each(JoinHandle::abort);
    }
}

/// Serves a producer's delivery reports, and flushes what waits meanwhile.
async fn serve(events: EventQueue<Callbacks>, batcher: Arc<Batcher>, reports: Arc<Reports>) {
    let mut has_failed = false;
    loop {
        events.notified().await;
        while events.has_events() {
            batch_rejections::serving_one_batch(|| events.serve_one());
        }
        if !has_failed && let Some(code) = events.failed() {
            has_failed = true;
            reports.record_fatal(code);
        }
        batcher.flush_if_due();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::mocking::MockCluster;

    async fn producer(brokers: &str) -> Arc<Producer> {
        let bootstrap_servers = vec![brokers.to_owned()];
        let kafka = KafkaConfig { bootstrap_servers, ..KafkaConfig::default() };
        let credentials = Arc::new(Credentials::read(&kafka).unwrap());
        Producer::make(kafka, credentials, Limits::default(), Arc::new(Metrics::new()), Arc::default(), 0)
            .await
            .unwrap()
    }

    async fn is_authenticated(producer: Arc<Producer>, timeout: Duration) -> bool {
        tokio::task::spawn_blocking(move || producer.is_authenticated(timeout)).await.unwrap()
    }

    #[tokio::test]
    async fn only_a_broker_that_answers_authenticates_a_candidate() {
        let kafka = MockCluster::new(1).unwrap();
        let candidate = producer(&kafka.bootstrap_servers()).await;
        assert!(is_authenticated(candidate, Duration::from_secs(10)).await);
        assert!(!is_authenticated(producer("127.0.0.1:1").await, Duration::from_millis(300)).await);
    }

    #[tokio::test]
    async fn a_client_is_never_ended_on_the_serving_thread() {
        let producer = producer("127.0.0.1:1").await;
        let reports = Arc::clone(&producer.reports);
        drop(producer);
        let ended_on = async {
            while reports.ended_on.get().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended_on).await.expect("it ends");
        assert_ne!(reports.ended_on.get(), Some(&std::thread::current().id()));
    }
}
