//! Replaces the producer when it fails for good or its credentials change, and checks the cluster and its topics.
//!
//! Everything that may take a while runs in the background: a broker that does not answer delays neither a replacement
//! nor changed credentials.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use presenceroute_runtime::follow::Reloaded;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::producer::{CHECK_TIMEOUT, Producer, REBUILD_EVERY};
use super::publisher::Publisher;
use presenceroute_core::routing::Router;

/// How often a healthy cluster is checked.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// How often an unhealthy one is checked.
const RECHECK_EVERY: Duration = Duration::from_secs(1);

/// How often the files with credentials are read.
const CREDENTIALS_EVERY: Duration = Duration::from_millis(250);

/// Supervises the producer of a [`Publisher`], for as long as it [runs](Supervisor::run).
pub struct Supervisor {
    publisher: Arc<Publisher>,
    /// The newest that could be read, in use or not.
    credentials: Arc<Credentials>,
    reading: Background<Result<Credentials, String>>,
    /// Whether the current producer failed for good.
    has_failed: bool,
    /// When another producer is needed.
    needed_at: Option<Instant>,
    making: Background<Result<Arc<Producer>, KafkaError>>,
    /// The producer with changed credentials, until Kafka has authenticated it.
    candidate: Option<Arc<Producer>>,
    authenticating: Background<()>,
    /// When the next check starts, while none is running.
    check_at: Option<Instant>,
    checking: Background<bool>,
}

impl Supervisor {
    /// A supervisor of a publisher whose producer was made with these credentials.
    pub(super) fn new(publisher: Arc<Publisher>, credentials: Arc<Credentials>) -> Self {
        Self {
            publisher,
            credentials,
            reading: Background::default(),
            has_failed: false,
            needed_at: None,
            making: Background::default(),
            candidate: None,
            authenticating: Background::default(),
            check_at: Some(Instant::now()),
            checking: Background::default(),
        }
    }

    /// Keeps the producer usable and checks the topics of `table`, until `stop`.
    pub async fn run(mut self, mut table: watch::Receiver<Reloaded<Router>>, stop: CancellationToken) {
        let has_files = self.publisher.kafka.tls.is_some() || self.publisher.kafka.sasl.is_some();
        let mut read = interval(CREDENTIALS_EVERY);
        read.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let current = self.publisher.current();
            tokio::select! {
                () = stop.cancelled() => return,
                cause = current.failed() => self.on_producer_failed(&current, cause),
                () = at(self.needed_at) => self.start_replacement(),
                made = self.making.outcome() => self.on_producer_made(made),
                () = self.authenticating.outcome() => self.on_authenticated(),
                _ = read.tick(), if has_files && !self.reading.is_running() => self.start_reading(),
                read = self.reading.outcome() => self.on_credentials_read(read),
                // A fixed table never changes.
                Ok(()) = table.changed(), if table.has_changed().is_ok() => self.check_now(),
                () = at(self.check_at) => self.start_check(topics(&table)),
                is_healthy = self.checking.outcome() => self.schedule_check(is_healthy),
            }
        }
    }

    /// The current producer failed for good.
    fn on_producer_failed(&mut self, current: &Producer, cause: RDKafkaErrorCode) {
        self.publisher.health.lock().error = current.reports.newest_error();
        // Without authorization, a new producer fails as well until a person acts.
        let pause = match cause {
            RDKafkaErrorCode::ClusterAuthorizationFailed => CHECK_EVERY,
            _ => REBUILD_EVERY,
        };
        self.has_failed = true;
        self.needed_at = Some(current.born + pause);
    }

    /// Makes a producer with the newest credentials, or switches to the candidate, also where Kafka has not
    /// authenticated it yet.
    fn start_replacement(&mut self) {
        self.needed_at = None;
        match self.candidate.take() {
            Some(candidate) if self.has_failed => self.switch_to(candidate, "fatal"),
            _ if self.making.is_running() => {}
            _ => self.making.start(self.publisher.successor(Arc::clone(&self.credentials))),
        }
    }

    /// A producer was made, or could not be.
    fn on_producer_made(&mut self, made: Result<Arc<Producer>, KafkaError>) {
        match made {
            Ok(producer) if self.has_failed => self.switch_to(producer, "fatal"),
            Ok(producer) => {
                self.authenticating
                    .start(wait_until_authenticated(Arc::clone(&self.publisher), Arc::clone(&producer)));
                self.candidate = Some(producer);
            }
            Err(error) => {
                tracing::error!(%error, "cannot make a new Kafka producer, keeping the current one");
                self.publisher.health.lock().credentials_error = Some(error.to_string());
                // Memory or file descriptors may have been exhausted.
                self.needed_at = Some(Instant::now() + CHECK_EVERY);
            }
        }
    }

    /// Kafka has authenticated the candidate.
    fn on_authenticated(&mut self) {
        if let Some(candidate) = self.candidate.take() {
            self.switch_to(candidate, "credentials");
            self.check_now();
        }
    }

    /// Makes `next` the producer that events go to, and gives up every other replacement.
    fn switch_to(&mut self, next: Arc<Producer>, cause: &'static str) {
        self.has_failed = false;
        self.needed_at = None;
        self.candidate = None;
        self.authenticating.stop();
        self.publisher.health.lock().credentials_error = None;
        self.publisher.switch_to(next, cause);
    }

    fn start_reading(&mut self) {
        let kafka = self.publisher.kafka.clone();
        self.reading.start(async move {
            match tokio::task::spawn_blocking(move || Credentials::read(&kafka)).await {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// Files with credentials were read. Changed ones need another producer.
    fn on_credentials_read(&mut self, read: Result<Credentials, String>) {
        let (read, unread) = match read {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error)),
        };
        self.publisher.health.lock().unread_credentials = unread;
        let Some(changed) = read.filter(|read| !self.credentials.same_as(read)) else { return };
        self.credentials = Arc::new(changed);
        self.candidate = None;
        self.authenticating.stop();
        self.making.stop();
        self.needed_at = Some(Instant::now());
    }

    fn start_check(&mut self, topics: Vec<String>) {
        self.check_at = None;
        self.checking.start(Arc::clone(&self.publisher).check_topics(topics));
    }

    fn check_now(&mut self) {
        self.checking.stop();
        self.check_at = Some(Instant::now());
    }

    fn schedule_check(&mut self, is_healthy: bool) {
        self.check_at = Some(Instant::now() + if is_healthy { CHECK_EVERY } else { RECHECK_EVERY });
    }
}

/// Waits until Kafka authenticates the candidate: brokers may learn a changed password later than the relay, and until
/// then the old connections work.
async fn wait_until_authenticated(publisher: Arc<Publisher>, candidate: Arc<Producer>) {
    loop {
        let asked = Arc::clone(&candidate);
        let asking = tokio::task::spawn_blocking(move || asked.is_authenticated(CHECK_TIMEOUT));
        if !matches!(asking.await, Ok(false)) {
            return;
        }
        let reason = candidate.reports.newest_error();
        let reason = reason.unwrap_or_else(|| format!("no broker has answered within {CHECK_TIMEOUT:?}"));
        publisher.health.lock().credentials_error =
            Some(format!("the changed credentials are not in use yet: {reason}"));
        sleep(RECHECK_EVERY).await;
    }
}

/// Waits until `time`; forever, where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn topics(table: &watch::Receiver<Reloaded<Router>>) -> Vec<String> {
    let loaded = table.borrow();
    let Some(router) = &loaded.current else { return Vec::new() };
    router.table().topics().into_iter().map(|topic| topic.as_str().to_owned()).collect()
}

/// Work in the background, if there is any.
struct Background<T>(Option<BoxFuture<'static, T>>);

impl<T> Default for Background<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Background<T> {
    /// Starts this, in place of what is running.
    fn start(&mut self, work: impl Future<Output = T> + Send + 'static) {
        self.0 = Some(Box::pin(work));
    }

    /// Gives up what is running.
    fn stop(&mut self) {
        self.0 = None;
    }

    fn is_running(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for the outcome of the work; forever, where there is none. Cancellation-safe.
    async fn outcome(&mut self) -> T {
        let Some(work) = &mut self.0 else { return pending().await };
        let outcome = work.await;
        self.0 = None;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::super::credentials::tests::Files;
    use super::*;
    use crate::kafka::statistics::Statistics;
    use crate::observe::metrics::Metrics;
    use presenceroute_core::relay_config::SaslMechanism;
    use presenceroute_core::relay_config::{KafkaConfig, KafkaTlsConfig, Limits};
    use presenceroute_core::routing::RoutingTable;
    use rdkafka::mocking::MockCluster;

    /// Longer than anything here takes that goes right.
    const PATIENCE: Duration = Duration::from_secs(15);

    /// An address without a listener.
    const NOWHERE: &str = "127.0.0.1:1";

    fn at_brokers(brokers: &str) -> KafkaConfig {
        KafkaConfig { bootstrap_servers: vec![brokers.to_owned()], ..KafkaConfig::default() }
    }

    /// A broker that cannot be reached, with this password.
    fn with_password(files: &Files, password: &str) -> KafkaConfig {
        KafkaConfig { sasl: Some(files.sasl(SaslMechanism::Plain, password)), ..at_brokers(NOWHERE) }
    }

    async fn publisher(kafka: KafkaConfig) -> (Arc<Publisher>, Supervisor) {
        let credentials = Arc::new(Credentials::read(&kafka).unwrap());
        let (metrics, statistics) = (Arc::new(Metrics::new()), Arc::new(Statistics::default()));
        let made = Publisher::new(kafka, Limits::default(), metrics, statistics, Arc::clone(&credentials));
        let publisher = made.await.unwrap();
        (Arc::clone(&publisher), Supervisor::new(publisher, credentials))
    }

    fn run(supervisor: Supervisor) {
        let table = RoutingTable::parse("{t: topic}").unwrap();
        let routing = presenceroute_runtime::follow::fixed(Router::new(table));
        tokio::spawn(supervisor.run(routing, CancellationToken::new()));
    }

    async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "never: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_not_in_use(publisher: &Publisher) -> bool {
        let error = publisher.health.lock().credentials_error.clone();
        error.is_some_and(|error| error.contains("the changed credentials are not in use yet"))
    }

    #[tokio::test]
    async fn credentials_that_change_before_the_first_read_are_used() {
        let files = Files::new();
        let (publisher, supervisor) = publisher(with_password(&files, "old")).await;
        files.write("password", "new");
        run(supervisor);
        eventually("the change is noticed", || is_not_in_use(&publisher)).await;
    }

    #[tokio::test]
    async fn a_producer_that_could_not_be_made_is_made_later() {
        let files = Files::new();
        let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
        let tls = KafkaTlsConfig { ca_file: Some(files.write("ca.crt", &ca)), client_certificate: None };
        let (publisher, supervisor) = publisher(KafkaConfig { tls: Some(tls), ..at_brokers(NOWHERE) }).await;
        run(supervisor);
        files.write("ca.crt", "no certificate");
        let has_failed = || publisher.health.lock().credentials_error.is_some();
        eventually("it cannot be made", has_failed).await;
        publisher.health.lock().credentials_error = None;
        eventually("it is tried again", has_failed).await;
    }

    #[tokio::test]
    async fn a_candidate_that_replaces_a_failed_producer_leaves_no_error() {
        let files = Files::new();
        let (publisher, supervisor) = publisher(with_password(&files, "old")).await;
        run(supervisor);
        files.write("password", "new");
        eventually("the candidate waits", || is_not_in_use(&publisher)).await;
        publisher.current().fail_for_good();
        eventually("the candidate takes over", || publisher.current().generation == 1).await;
        assert_eq!(publisher.health.lock().credentials_error, None);
    }

    #[tokio::test]
    async fn a_producer_is_not_replaced_twice() {
        let (publisher, mut supervisor) = publisher(at_brokers(NOWHERE)).await;
        supervisor.on_producer_failed(&publisher.current(), RDKafkaErrorCode::Fatal);
        assert!(supervisor.needed_at.is_some());
        // Kafka authenticates the candidate before the time has come.
        let candidate = publisher.successor(Arc::clone(&supervisor.credentials)).await.unwrap();
        supervisor.candidate = Some(candidate);
        supervisor.on_authenticated();
        assert_eq!(publisher.current().generation, 1);
        assert!(supervisor.needed_at.is_none() && !supervisor.has_failed);
    }

    #[tokio::test]
    async fn a_silent_broker_does_not_delay_a_replacement() {
        let kafka = MockCluster::new(1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
        let (publisher, supervisor) = publisher(at_brokers(&kafka.bootstrap_servers())).await;
        let mut replaced = publisher.producer.subscribe();
        run(supervisor);
        publisher.current().fail_for_good();
        // A second is the shortest life of a producer; the question to the broker takes three.
        let replaced = replaced.wait_for(|producer| producer.generation == 1);
        tokio::time::timeout(Duration::from_millis(2_500), replaced).await.expect("in time").unwrap();
    }
}
