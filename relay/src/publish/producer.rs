//! One Kafka producer: how it is configured, and what it reports of itself.
//!
//! It is idempotent and waits for all in-sync replicas. It retries by itself, beyond the time that a sender waits: a
//! broker that hangs may have a record already, and only the producer that sent it can send it again without making
//! it two. The report of every event goes to that event's [`Delivery`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use presenceroute_core::relay_config::{KafkaConfig, Limits};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{Producer as _, ProducerContext, PurgeConfig};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientContext, Message as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::credentials::Credentials;
use super::failure::{Account, Failure};
use super::gate::{Gate, Gathering, Message};
use super::ledger::Delivery;
use super::native::{self, Client, Topic, TopicState, Wakeups};
use super::oauth;
use super::record::{Position, Record};
use super::{REBUILD_EVERY, refusals};
use crate::metrics::{KafkaErrorLabels, Metrics, TopicLabel, seconds};
use crate::routing::Target;

/// How long the reports may take of records that a producer has given up.
const REPORTED_WITHIN: Duration = Duration::from_secs(5);

/// How many different failures of a cluster are told from each other.
const MOST_ERRORS: usize = 16;

/// What a producer says of itself.
pub(super) struct Reports {
    pub(super) metrics: Arc<Metrics>,
    account: Account,
    /// Whether events go to it.
    is_in_use: AtomicBool,
    /// Rung when it can send no more.
    failed: Notify,
    /// Why it cannot.
    fatal: OnceLock<RDKafkaErrorCode>,
    /// What the cluster failed with since it last answered: the newest last, each once.
    errors: Mutex<Vec<String>>,
    /// Where its client was ended.
    #[cfg(test)]
    ended_on: OnceLock<std::thread::ThreadId>,
}

impl Reports {
    /// The newest failure of the cluster, not of one event.
    pub(super) fn newest_error(&self) -> Option<String> {
        self.errors().last().cloned()
    }

    pub(super) fn forget_error(&self) {
        self.errors().clear();
    }

    fn errors(&self) -> MutexGuard<'_, Vec<String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One record is not in its topic.
    pub(super) fn count_failure(&self, topic: &str, code: RDKafkaErrorCode) {
        let labels = KafkaErrorLabels { topic: topic.to_owned(), kind: format!("{code:?}") };
        self.metrics.kafka_errors.get_or_create(&labels).inc();
    }

    fn record_error(&self, code: RDKafkaErrorCode, reason: &str) {
        let error = self.account.cluster_failure(code, reason);
        let mut errors = self.errors();
        // The library repeats itself on every attempt to connect, and in turns where there are several brokers.
        match errors.iter().position(|known| *known == error) {
            Some(known) => drop(errors.remove(known)),
            None => tracing::warn!(error, "Kafka"),
        }
        if errors.len() == MOST_ERRORS {
            errors.remove(0);
        }
        errors.push(error);
    }

    fn record_fatal(&self, code: RDKafkaErrorCode) {
        tracing::error!(cause = ?code, "the Kafka producer can send no more; a new one takes over");
        if code == RDKafkaErrorCode::ClusterAuthorizationFailed {
            self.record_error(code, "no record may be written to any topic (cluster authorization failed)");
        }
        let _ = self.fatal.set(code);
        self.failed.notify_one();
    }

    /// What a failure code means for a delivery of this producer.
    fn failure(&self, code: RDKafkaErrorCode) -> Failure {
        match (Failure::from_code(code), self.fatal.get()) {
            // Another producer would not be let in either.
            (Failure::GivenBack, Some(fatal @ RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                Failure::Refused(*fatal)
            }
            (failure, _) => failure,
        }
    }
}

/// What a producer's callbacks are served with.
pub(super) struct Context {
    reports: Arc<Reports>,
    generation: u64,
    requests: Requests,
    /// Whether the next call of [`ClientContext::error`] repeats the one before.
    repeats_error: AtomicBool,
    /// Why there is no token, while there is none.
    no_token: Mutex<Option<String>>,
}

impl Context {
    /// Notes why the producer has no token to be let in with; nothing when it has one.
    pub(super) fn note_token(&self, failure: Option<String>) {
        *self.no_token.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    fn no_token(&self) -> Option<String> {
        self.no_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
impl Drop for Context {
    fn drop(&mut self) {
        let _ = self.reports.ended_on.set(std::thread::current().id());
    }
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
        if !self.reports.is_in_use.load(Ordering::Relaxed) {
            return;
        }
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
        match (code, self.no_token()) {
            // It says only that every broker has failed, right after each has said why.
            (RDKafkaErrorCode::AllBrokersDown, _) if self.reports.newest_error().is_some() => {}
            // Whatever brokers say while there is no token, that is why they let nobody in.
            (_, Some(why)) => self.reports.record_error(RDKafkaErrorCode::Authentication, &why),
            (_, None) => self.reports.record_error(code, reason),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
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
                self.reports.count_failure(topic.name(), code);
                if self.requests == Requests::Shared && Failure::may_concern_another(code) {
                    refusals::note(delivery, code);
                } else {
                    delivery.finish(Err(self.reports.failure(code)));
                }
            }
        }
    }
}

/// What one request has for one partition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    /// Whatever is there to be sent.
    Shared,
    /// One record.
    OfOneRecord,
}

/// What a producer is made of.
#[derive(Clone)]
struct Recipe {
    kafka: KafkaConfig,
    credentials: Arc<Credentials>,
    limits: Limits,
    metrics: Arc<Metrics>,
    generation: u64,
}

/// A producer's companion, which sends each record by itself.
enum Companion {
    /// Nothing was refused yet.
    Unneeded,
    Made(Arc<Producer>),
    /// The producer was retired, and its companion with it.
    Ended,
}

/// One producer.
pub(super) struct Producer {
    client: Client,
    topics: RwLock<HashMap<String, Arc<Topic>, foldhash::fast::RandomState>>,
    pub(super) reports: Arc<Reports>,
    /// Who it is to the brokers.
    pub(super) account: Account,
    gate: Arc<Gate>,
    pub(super) born: tokio::time::Instant,
    /// Which of the relay's producers it is: a later one has a higher number.
    pub(super) generation: u64,
    serving: JoinHandle<()>,
    /// Gets tokens, with OAUTHBEARER.
    supplying: Option<JoinHandle<()>>,
    /// For another like it.
    recipe: Recipe,
    companion: tokio::sync::Mutex<Companion>,
}

impl Producer {
    /// Makes one, on a thread of its own: the library reads bundles of certificates and starts threads meanwhile.
    pub(super) async fn make(
        kafka: KafkaConfig,
        credentials: Arc<Credentials>,
        limits: Limits,
        metrics: Arc<Metrics>,
        generation: u64,
    ) -> Result<Arc<Self>, KafkaError> {
        Self::make_by(Recipe { kafka, credentials, limits, metrics, generation }, Requests::Shared).await
    }

    async fn make_by(recipe: Recipe, requests: Requests) -> Result<Arc<Self>, KafkaError> {
        let made = tokio::task::spawn_blocking(move || Self::new(recipe, requests).map(Arc::new)).await;
        made.unwrap_or_else(|error| Err(KafkaError::ClientCreation(error.to_string())))
    }

    fn new(recipe: Recipe, requests: Requests) -> Result<Self, KafkaError> {
        let Recipe { kafka, credentials, limits, metrics, generation } = &recipe;
        let generation = *generation;
        let mut config = configuration(kafka, limits);
        if requests == Requests::OfOneRecord {
            config.set("batch.num.messages", "1");
        }
        for (name, value) in credentials.properties() {
            config.set(name, value);
        }
        let account = Account::new(kafka, credentials.user());
        let reports = Arc::new(Reports {
            metrics: Arc::clone(metrics),
            account: account.clone(),
            is_in_use: AtomicBool::new(false),
            failed: Notify::new(),
            fatal: OnceLock::new(),
            errors: Mutex::default(),
            #[cfg(test)]
            ended_on: OnceLock::new(),
        });
        let gate = Arc::new(Gate::new(Arc::clone(&reports)));
        let context = Context {
            reports: Arc::clone(&reports),
            generation,
            requests,
            repeats_error: AtomicBool::new(false),
            no_token: Mutex::new(None),
        };
        let client = native::share(config.create_with_context(context)?);
        let wakeups = Wakeups::new(&client)
            .ok_or_else(|| KafkaError::ClientCreation("it has no event queue".into()))?;
        let serving = tokio::spawn(serve(wakeups, Arc::clone(&gate), Arc::clone(&reports)));
        let supplying =
            credentials.oauth().map(|oauth| tokio::spawn(oauth::supply(Arc::clone(&client), oauth.clone())));
        Ok(Self {
            client,
            topics: RwLock::default(),
            reports,
            account,
            gate,
            born: tokio::time::Instant::now(),
            generation,
            serving,
            supplying,
            recipe,
            companion: tokio::sync::Mutex::new(Companion::Unneeded),
        })
    }

    /// Hands one record over, or has it wait for others. What becomes of it is reported to `delivery`, also when that
    /// is at once.
    pub(super) fn send(
        &self,
        record: &Record<'_>,
        target: &Target<'_>,
        delivery: Delivery,
        now: Instant,
    ) -> Option<Gathering> {
        if !self.can_send() {
            delivery.finish(Err(self.reports.failure(RDKafkaErrorCode::Fatal)));
            return None;
        }
        let (Some(topic), Some(headers)) = (self.topic(target.topic.as_str()), record.headers()) else {
            delivery.finish(Err(Failure::from_code(RDKafkaErrorCode::CriticalSystemResource)));
            return None;
        };
        self.gate.send(Message {
            topic,
            key: target.key.as_bytes().into(),
            body: record.body.clone(),
            headers,
            delivery,
            since: now,
        })
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

    /// Asks the cluster how `names` stand, each of which is in the answer. Of no topic, the question is whether the
    /// cluster answers.
    pub(super) fn topics(&self, names: &[String], timeout: Duration) -> Result<Vec<TopicState>, KafkaError> {
        let known: Vec<_> = names.iter().filter_map(|name| self.topic(name)).collect();
        if known.is_empty() {
            return self.client.client().fetch_metadata(None, timeout).map(|_| Vec::new());
        }
        let mut found = native::topics_in_use(&self.client, timeout).map_err(KafkaError::MetadataFetch)?;
        Ok(names.iter().map(|name| found.remove(name).unwrap_or_else(|| TopicState::missing(name))).collect())
    }

    /// Waits for a broker to let it in and answer; whether one has.
    pub(super) fn is_let_in(&self, timeout: Duration) -> bool {
        // Every client asks by itself who the brokers are, and the cluster's id is in the answer.
        self.client.client().fetch_cluster_id(timeout).is_some()
    }

    /// From now on events go to it.
    pub(super) fn take_over(&self) {
        self.reports.is_in_use.store(true, Ordering::Relaxed);
    }

    pub(super) fn can_send(&self) -> bool {
        self.reports.fatal.get().is_none()
    }

    /// Why it can send no more, where another producer would be refused, too.
    pub(super) fn refusal(&self) -> Option<Failure> {
        let failure = self.reports.failure(*self.reports.fatal.get()?);
        matches!(failure, Failure::Refused(_)).then_some(failure)
    }

    /// One that sends each record by itself, for those that were refused in company. This one cannot: the library puts
    /// together what waits, and new records come all the time.
    ///
    /// It is made when it is first needed, since most topics take what comes, and then stays as long as this one.
    pub(super) async fn companion(&self) -> Result<Arc<Self>, Failure> {
        let mut companion = self.companion.lock().await;
        let lost = match &*companion {
            Companion::Unneeded => None,
            Companion::Made(made) if made.can_send() => return Ok(Arc::clone(made)),
            Companion::Made(lost) => Some(Arc::clone(lost)),
            // There is another producer by now.
            Companion::Ended => return Err(Failure::GivenBack),
        };
        if let Some(lost) = &lost {
            tokio::time::sleep_until(lost.born + REBUILD_EVERY).await;
        }
        let made = Self::make_by(self.recipe.clone(), Requests::OfOneRecord).await.map_err(|error| {
            tracing::error!(%error, "no Kafka producer can be made for records that are sent one by one");
            Failure::Unavailable(RDKafkaErrorCode::CriticalSystemResource)
        })?;
        *companion = Companion::Made(Arc::clone(&made));
        if let Some(lost) = lost {
            drop(tokio::task::spawn_blocking(move || lost.retire(Duration::ZERO)));
        }
        Ok(made)
    }

    /// Waits until it can send no more, and says why.
    pub(super) async fn failed(&self) -> RDKafkaErrorCode {
        self.reports.failed.notified().await;
        self.reports.fatal.get().copied().unwrap_or(RDKafkaErrorCode::Fatal)
    }

    /// Ends what it has for another producer to take over. What it has sent is given `patience` to be acknowledged,
    /// because only this producer can tell whether it was; the rest comes back as [`Failure::GivenBack`]. So it is with
    /// what its companion has.
    pub(super) fn retire(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let companion = std::mem::replace(&mut *self.companion.blocking_lock(), Companion::Ended);
        self.give_up(patience);
        if let Companion::Made(companion) = companion {
            companion.give_up(until.saturating_duration_since(Instant::now()));
        }
    }

    fn give_up(&self, patience: Duration) {
        if !self.can_send() {
            self.client.purge(PurgeConfig::default().queue());
        }
        if self.flush_own(patience).is_err() {
            self.client.purge(PurgeConfig::default().queue().inflight());
            // Nobody else takes the reports of what came back, once this one is gone.
            let _ = self.flush_own(REPORTED_WITHIN);
        }
    }

    /// Waits until every record has its report, or the time is over; those that its companion has, too.
    pub(super) fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let until = Instant::now() + timeout;
        self.flush_own(timeout)?;
        let companion = match &*self.companion.blocking_lock() {
            Companion::Made(companion) => Arc::clone(companion),
            Companion::Unneeded | Companion::Ended => return Ok(()),
        };
        companion.flush_own(until.saturating_duration_since(Instant::now()))
    }

    fn flush_own(&self, timeout: Duration) -> Result<(), KafkaError> {
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
        wakeups.next().await;
        while wakeups.has_events() {
            refusals::serving_one_request(|| wakeups.serve_one());
        }
        if !has_failed && let Some(code) = wakeups.failed() {
            has_failed = true;
            reports.record_fatal(code);
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
        // Far below what most topics take, so that a full batch is not refused where each of its records fits.
        ("batch.size", "262144"),
        // Brokers that want to be told how their clients do are told by the relay's own metrics: numbers that nobody
        // asks for cost memory, and up to a second at the end.
        ("enable.metrics.push", "false"),
        // One text of a few KiB and one for each partition: too seldom to be noticed, often enough for a scrape.
        ("statistics.interval.ms", "10000"),
    ] {
        config.set(name, value);
    }
    // Whoever waits for a request that takes longer has been answered 503: it is time for another connection.
    config.set("socket.timeout.ms", limits.publish_timeout_ms.max(10).to_string());
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
    config.set("message.timeout.ms", limits.delivery_timeout_ms.to_string());
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_core::kafka_properties::SETTABLE;
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::RDKafkaConfRes;

    async fn producer(brokers: &str) -> Arc<Producer> {
        let bootstrap_servers = vec![brokers.to_owned()];
        let kafka = KafkaConfig { bootstrap_servers, ..KafkaConfig::default() };
        let credentials = Arc::new(Credentials::read(&kafka).unwrap());
        Producer::make(kafka, credentials, Limits::default(), Arc::new(Metrics::new()), 0).await.unwrap()
    }

    #[test]
    fn the_library_knows_every_property_that_can_be_set() {
        let is_known = |name: &str| {
            let refused = ClientConfig::new().set(name, "").create_native_config().err();
            !matches!(refused, Some(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)))
        };
        assert!(!is_known("compresion.type"));
        for name in SETTABLE {
            assert!(is_known(name), "{name}");
        }
    }

    #[test]
    fn what_the_promises_rest_on_is_set_whatever_else_is() {
        let promised = [
            ("acks", "all"),
            ("enable.idempotence", "true"),
            ("partitioner", "murmur2_random"),
            ("allow.auto.create.topics", "false"),
            ("linger.ms", "0"),
            ("message.timeout.ms", "120000"),
            ("bootstrap.servers", "one:1,two:2"),
        ];
        let bootstrap_servers = vec!["one:1".to_owned(), "two:2".to_owned()];
        let others = promised.map(|(name, _)| (name.to_owned(), "1".to_owned()));
        let mut kafka =
            KafkaConfig { bootstrap_servers, properties: others.into(), ..KafkaConfig::default() };
        kafka.properties.insert("compression.type".into(), "zstd".into());
        let config = configuration(&kafka, &Limits::default());
        for (name, value) in promised.into_iter().chain([("compression.type", "zstd")]) {
            assert_eq!(config.get(name), Some(value), "{name}");
        }
    }

    async fn is_let_in(producer: Arc<Producer>, timeout: Duration) -> bool {
        tokio::task::spawn_blocking(move || producer.is_let_in(timeout)).await.unwrap()
    }

    #[tokio::test]
    async fn who_sends_nothing_yet_is_let_in_by_a_broker_that_answers_and_by_no_other() {
        let kafka = MockCluster::new(1).unwrap();
        let newcomer = producer(&kafka.bootstrap_servers()).await;
        assert!(is_let_in(newcomer, Duration::from_secs(10)).await);
        assert!(!is_let_in(producer("127.0.0.1:1").await, Duration::from_millis(300)).await);
    }

    #[tokio::test]
    async fn a_client_is_never_ended_on_the_thread_that_serves() {
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
