//! What keeps a publisher's producer usable, and watches the cluster.
//!
//! Everything that may take a while goes on beside the rest: a broker that does not answer holds up neither a
//! replacement nor changed credentials.

use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::producer::Producer;
use super::{CHECK_EVERY, CHECK_TIMEOUT, CREDENTIALS_EVERY, Publisher, REBUILD_EVERY, RECHECK_EVERY};
use crate::reload::Loaded;
use crate::routing::Router;

/// Keeps the producer of a [`Publisher`] usable, for as long as it [runs](Supervisor::run).
pub struct Supervisor {
    publisher: Arc<Publisher>,
    /// The newest that could be read, in use or not.
    credentials: Arc<Credentials>,
    reading: Ongoing<Result<Credentials, String>>,
    /// Whether the current producer can send no more.
    is_lost: bool,
    /// When another producer is needed.
    needed_at: Option<Instant>,
    making: Ongoing<Result<Arc<Producer>, KafkaError>>,
    /// One with changed credentials, until Kafka has let it in.
    newcomer: Option<Arc<Producer>>,
    admitting: Ongoing<()>,
    /// When the cluster is asked next, while it is not being asked.
    look_at: Option<Instant>,
    looking: Ongoing<bool>,
}

impl Supervisor {
    /// A supervisor of a publisher whose producer was made with these credentials.
    pub(super) fn new(publisher: Arc<Publisher>, credentials: Arc<Credentials>) -> Self {
        Self {
            publisher,
            credentials,
            reading: Ongoing::default(),
            is_lost: false,
            needed_at: None,
            making: Ongoing::default(),
            newcomer: None,
            admitting: Ongoing::default(),
            look_at: Some(Instant::now()),
            looking: Ongoing::default(),
        }
    }

    /// Keeps the producer usable and watches how the topics of `table` stand, until `stop`.
    pub async fn run(mut self, mut table: watch::Receiver<Loaded<Router>>, stop: CancellationToken) {
        let has_files = self.publisher.kafka.tls.is_some() || self.publisher.kafka.sasl.is_some();
        let mut read = interval(CREDENTIALS_EVERY);
        read.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let current = self.publisher.current();
            tokio::select! {
                () = stop.cancelled() => return,
                cause = current.failed() => self.lose(&current, cause),
                () = at(self.needed_at) => self.provide(),
                made = self.making.outcome() => self.take(made),
                () = self.admitting.outcome() => self.admit(),
                _ = read.tick(), if has_files && !self.reading.is_going_on() => self.read(),
                read = self.reading.outcome() => self.compare(read),
                // A table that is fixed never changes.
                Ok(()) = table.changed(), if table.has_changed().is_ok() => self.look_now(),
                () = at(self.look_at) => self.look(topics(&table)),
                is_well = self.looking.outcome() => self.look_again(is_well),
            }
        }
    }

    /// The current producer can send no more.
    fn lose(&mut self, current: &Producer, cause: RDKafkaErrorCode) {
        self.publisher.cluster().error = current.reports.newest_error();
        // Whoever is not let in stays out until somebody acts.
        let pause = match cause {
            RDKafkaErrorCode::ClusterAuthorizationFailed => CHECK_EVERY,
            _ => REBUILD_EVERY,
        };
        self.is_lost = true;
        self.needed_at = Some(current.born + pause);
    }

    /// Has a producer with the newest credentials made, or takes the one that is there, also where Kafka has not let
    /// it in yet.
    fn provide(&mut self) {
        self.needed_at = None;
        match self.newcomer.take() {
            Some(newcomer) if self.is_lost => self.hand_over("fatal", newcomer),
            _ if self.making.is_going_on() => {}
            _ => self.making.begin(self.publisher.successor(Arc::clone(&self.credentials))),
        }
    }

    /// A producer was made, or could not be.
    fn take(&mut self, made: Result<Arc<Producer>, KafkaError>) {
        match made {
            Ok(producer) if self.is_lost => self.hand_over("fatal", producer),
            Ok(producer) => {
                self.admitting.begin(admission(Arc::clone(&self.publisher), Arc::clone(&producer)));
                self.newcomer = Some(producer);
            }
            Err(error) => {
                tracing::error!(%error, "no new Kafka producer can be made; the old one stays");
                self.publisher.cluster().credentials_error = Some(error.to_string());
                // It may have been for want of memory or descriptors.
                self.needed_at = Some(Instant::now() + CHECK_EVERY);
            }
        }
    }

    /// Kafka has let the newcomer in.
    fn admit(&mut self) {
        if let Some(newcomer) = self.newcomer.take() {
            self.hand_over("credentials", newcomer);
            self.look_now();
        }
    }

    /// Makes `next` the producer that events go to. Nothing of what was to come is needed any more.
    fn hand_over(&mut self, cause: &'static str, next: Arc<Producer>) {
        self.is_lost = false;
        self.needed_at = None;
        self.newcomer = None;
        self.admitting.stop();
        self.publisher.cluster().credentials_error = None;
        self.publisher.hand_over(cause, next);
    }

    fn read(&mut self) {
        let kafka = self.publisher.kafka.clone();
        self.reading.begin(async move {
            match tokio::task::spawn_blocking(move || Credentials::read(&kafka)).await {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// Files with credentials were read. Changed ones need another producer.
    fn compare(&mut self, read: Result<Credentials, String>) {
        let (read, unread) = match read {
            Ok(read) => (Some(read), None),
            Err(error) => (None, Some(error)),
        };
        self.publisher.cluster().unread_credentials = unread;
        let Some(changed) = read.filter(|read| !self.credentials.same_as(read)) else { return };
        self.credentials = Arc::new(changed);
        self.newcomer = None;
        self.admitting.stop();
        self.making.stop();
        self.needed_at = Some(Instant::now());
    }

    fn look(&mut self, topics: Vec<String>) {
        self.look_at = None;
        self.looking.begin(Arc::clone(&self.publisher).look(topics));
    }

    fn look_now(&mut self) {
        self.looking.stop();
        self.look_at = Some(Instant::now());
    }

    fn look_again(&mut self, is_well: bool) {
        self.look_at = Some(Instant::now() + if is_well { CHECK_EVERY } else { RECHECK_EVERY });
    }
}

/// Waits until Kafka lets the newcomer in: the brokers may hear of a changed password later than the relay, and until
/// then the old connections are good.
async fn admission(publisher: Arc<Publisher>, newcomer: Arc<Producer>) {
    loop {
        let asked = Arc::clone(&newcomer);
        let asking = tokio::task::spawn_blocking(move || asked.is_let_in(CHECK_TIMEOUT));
        if !matches!(asking.await, Ok(false)) {
            return;
        }
        let reason = newcomer.reports.newest_error();
        let reason = reason.unwrap_or_else(|| format!("no broker has answered within {CHECK_TIMEOUT:?}"));
        publisher.cluster().credentials_error =
            Some(format!("the changed credentials are not in use yet: {reason}"));
        sleep(RECHECK_EVERY).await;
    }
}

/// At this time; never, where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn topics(table: &watch::Receiver<Loaded<Router>>) -> Vec<String> {
    let loaded = table.borrow();
    let Some(router) = &loaded.current else { return Vec::new() };
    router.table().topics().into_iter().map(|topic| topic.as_str().to_owned()).collect()
}

/// Work that goes on beside other work, if there is any.
struct Ongoing<T>(Option<BoxFuture<'static, T>>);

impl<T> Default for Ongoing<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Ongoing<T> {
    /// Begins with this instead of what there was.
    fn begin(&mut self, work: impl Future<Output = T> + Send + 'static) {
        self.0 = Some(Box::pin(work));
    }

    /// Gives up what there was.
    fn stop(&mut self) {
        self.0 = None;
    }

    fn is_going_on(&self) -> bool {
        self.0.is_some()
    }

    /// What came of the work; never, where there is none. Waiting may be given up and taken up again.
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
    use crate::metrics::Metrics;
    use presenceroute_core::relay_config::SaslMechanism;
    use presenceroute_core::relay_config::{KafkaConfig, KafkaTlsConfig, Limits};
    use presenceroute_core::routing::RoutingTable;
    use rdkafka::mocking::MockCluster;
    use std::time::Duration;

    /// Longer than anything here takes that goes right.
    const PATIENCE: Duration = Duration::from_secs(15);

    /// Where nobody listens.
    const NOWHERE: &str = "127.0.0.1:1";

    fn at_brokers(brokers: &str) -> KafkaConfig {
        KafkaConfig { bootstrap_servers: vec![brokers.to_owned()], ..KafkaConfig::default() }
    }

    /// A broker that nobody reaches, who would be told this password.
    fn with_password(files: &Files, password: &str) -> KafkaConfig {
        KafkaConfig { sasl: Some(files.sasl(SaslMechanism::Plain, password)), ..at_brokers(NOWHERE) }
    }

    async fn publisher(kafka: KafkaConfig) -> (Arc<Publisher>, Supervisor) {
        Publisher::new(kafka, Limits::default(), Arc::new(Metrics::new())).await.unwrap()
    }

    fn run(supervisor: Supervisor) {
        let table = RoutingTable::parse("{t: topic}").unwrap();
        let loaded = watch::Sender::new(Loaded::fixed(Router::new(table)));
        tokio::spawn(supervisor.run(loaded.subscribe(), CancellationToken::new()));
    }

    async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < until, "never: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_not_in_use(publisher: &Publisher) -> bool {
        let error = publisher.cluster().credentials_error.clone();
        error.is_some_and(|error| error.contains("the changed credentials are not in use yet"))
    }

    #[tokio::test]
    async fn credentials_that_change_before_anyone_looks_are_taken_up() {
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
        let has_failed = || publisher.cluster().credentials_error.is_some();
        eventually("it cannot be made", has_failed).await;
        publisher.cluster().credentials_error = None;
        eventually("it is tried again", has_failed).await;
    }

    #[tokio::test]
    async fn a_newcomer_that_takes_over_from_a_lost_producer_leaves_no_error_behind() {
        let files = Files::new();
        let (publisher, supervisor) = publisher(with_password(&files, "old")).await;
        run(supervisor);
        files.write("password", "new");
        eventually("the newcomer waits", || is_not_in_use(&publisher)).await;
        publisher.current().fail_for_good();
        eventually("the newcomer takes over", || publisher.current().generation == 1).await;
        assert_eq!(publisher.cluster().credentials_error, None);
    }

    #[tokio::test]
    async fn a_producer_that_was_replaced_already_is_not_replaced_once_more() {
        let (publisher, mut supervisor) = publisher(at_brokers(NOWHERE)).await;
        supervisor.lose(&publisher.current(), RDKafkaErrorCode::Fatal);
        assert!(supervisor.needed_at.is_some());
        // Kafka lets in the one with the changed credentials before the time has come.
        let newcomer = publisher.successor(Arc::clone(&supervisor.credentials)).await.unwrap();
        supervisor.newcomer = Some(newcomer);
        supervisor.admit();
        assert_eq!(publisher.current().generation, 1);
        assert!(supervisor.needed_at.is_none() && !supervisor.is_lost);
    }

    #[tokio::test]
    async fn a_broker_that_does_not_answer_does_not_hold_up_a_replacement() {
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
