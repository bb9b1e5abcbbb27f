//! The harness's Kafka: its listeners, its topics, its users, and its brokers, which can be hurt.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use presenceroute_core::relay_config::SaslMechanism;
use presenceroute_core::relay_config::{CertificateFiles, KafkaConfig, KafkaSaslConfig, KafkaTlsConfig};
use presenceroute_relay::Settings;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::support;

/// The user that may do everything.
pub(crate) const USER: &str = "relay";

/// Tests that only use the brokers run beside each other; one that hurts them runs alone.
static WHOLE: RwLock<()> = RwLock::const_new(());

/// Where the brokers listen, and where the users' files are.
pub(crate) struct Cluster {
    pub(crate) plaintext: String,
    pub(crate) tls: String,
    pub(crate) mutual_tls: String,
    pub(crate) sasl: String,
    security: PathBuf,
}

impl Cluster {
    fn of_environment() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: tests/harness/kafka up --brokers 3 --secured && eval \"$(tests/harness/kafka env)\"")
            })
        };
        Self {
            plaintext: variable("KAFKA_BROKERS"),
            tls: variable("KAFKA_TLS_BROKERS"),
            mutual_tls: variable("KAFKA_MUTUAL_TLS_BROKERS"),
            sasl: variable("KAFKA_SASL_BROKERS"),
            security: variable("KAFKA_SECURITY").into(),
        }
    }

    /// The brokers, which stay whole until the guard goes.
    pub(crate) async fn whole() -> (Self, RwLockReadGuard<'static, ()>) {
        (Self::of_environment(), WHOLE.read().await)
    }

    /// The brokers, for this test alone.
    pub(crate) async fn to_be_hurt() -> (Self, Surgery) {
        let alone = WHOLE.write().await;
        (Self::of_environment(), Surgery { hanging: Vec::new(), dead: Vec::new(), _alone: alone })
    }

    /// The CA that signed the brokers' certificates, in Strimzi's `CLUSTER-cluster-ca-cert`.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.security.join("cluster-ca-cert/ca.crt")
    }

    /// Another CA.
    pub(crate) fn wrong_ca_file(&self) -> PathBuf {
        self.security.join("clients-ca-cert/ca.crt")
    }

    /// The Secret of a KafkaUser with authentication `tls`.
    pub(crate) fn tls_secret(&self, user: &str) -> PathBuf {
        self.security.join("users").join(user).join("tls")
    }

    /// The Secret of a KafkaUser with authentication `scram-sha-512`.
    pub(crate) fn scram_secret(&self, user: &str) -> PathBuf {
        self.security.join("users").join(user).join("scram")
    }

    pub(crate) fn plaintext(&self) -> KafkaConfig {
        KafkaConfig { bootstrap_servers: servers(&self.plaintext), ..KafkaConfig::default() }
    }

    pub(crate) fn tls(&self) -> KafkaConfig {
        let tls = KafkaTlsConfig { ca_file: Some(self.ca_file()), client_certificate: None };
        KafkaConfig { bootstrap_servers: servers(&self.tls), tls: Some(tls), ..KafkaConfig::default() }
    }

    /// With the certificate in a directory that is mounted from the user's Secret.
    pub(crate) fn mutual_tls(&self, secret: &Path) -> KafkaConfig {
        let files = CertificateFiles {
            certificate_file: secret.join("user.crt"),
            private_key_file: secret.join("user.key"),
        };
        let tls = KafkaTlsConfig { ca_file: Some(self.ca_file()), client_certificate: Some(files) };
        KafkaConfig { bootstrap_servers: servers(&self.mutual_tls), tls: Some(tls), ..KafkaConfig::default() }
    }

    /// With the password in a directory that is mounted from the user's Secret, which does not have the user's name.
    pub(crate) fn sasl(&self, mechanism: SaslMechanism, user: &str, secret: &Path) -> KafkaConfig {
        let sasl = KafkaSaslConfig {
            mechanism,
            username_file: Some(secret.join("username")),
            username: Some(user.to_owned()),
            password_file: Some(secret.join("password")),
            oauth: None,
            aws_msk_iam: None,
        };
        KafkaConfig { bootstrap_servers: servers(&self.sasl), sasl: Some(sasl), ..self.tls() }
    }

    /// Makes a topic of three partitions and as many replicas, with further settings, and gives its name.
    pub(crate) async fn topic(&self, replicas: i32, settings: &[(&str, &str)]) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("real-kafka.{}.{number}", std::process::id());
        self.create_topic(&name, replicas, settings).await;
        name
    }

    pub(crate) async fn create_topic(&self, name: &str, replicas: i32, settings: &[(&str, &str)]) {
        let topic = NewTopic::new(name, 3, TopicReplication::Fixed(replicas));
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        for made in self.admin().create_topics(&[topic], &AdminOptions::new()).await.unwrap() {
            made.unwrap();
        }
        let leads = || (0..3).all(|partition| self.leader(name, partition).is_some());
        support::eventually("the topic has leaders", leads).await;
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.plaintext).create().unwrap()
    }

    /// The broker that leads a partition.
    pub(crate) fn leader(&self, topic: &str, partition: usize) -> Option<i32> {
        let metadata = self.admin().inner().fetch_metadata(Some(topic), support::PATIENCE).ok()?;
        let partition = metadata.topics()[0].partitions().get(partition)?;
        (partition.leader() > 0).then(|| partition.leader())
    }

    /// How many replicas are in sync, where they are fewest.
    pub(crate) fn fewest_in_sync(&self, topic: &str) -> usize {
        let Ok(metadata) = self.admin().inner().fetch_metadata(Some(topic), support::PATIENCE) else {
            return 0;
        };
        let partitions = metadata.topics()[0].partitions();
        partitions.iter().map(|partition| partition.isr().len()).min().unwrap_or_default()
    }

    /// Everything that is in a topic, each partition in its order.
    pub(crate) async fn records(&self, topic: &str) -> Vec<support::Consumed> {
        let (brokers, topic) = (self.plaintext.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || support::consume(&brokers, &topic)).await.unwrap()
    }
}

fn servers(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

/// Settings of a relay that sends every event to `topic`, by its agent, with the limits that people get.
pub(crate) fn settings(kafka: KafkaConfig, topic: &str) -> Settings {
    let table =
        format!("version: 1\nroutes: [{{eventType: '*', topic: '{topic}', key: attributes.userId}}]\n");
    let mut settings = support::settings("unused:1", &table);
    settings.config.kafka = kafka;
    settings.config.limits = presenceroute_core::relay_config::Limits { drain_ms: 0, ..Default::default() };
    settings
}

/// `tests/harness/kafka` with these arguments.
pub(crate) async fn harness(arguments: &[&str]) {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    tokio::task::spawn_blocking(move || run(&arguments)).await.unwrap();
}

fn run(arguments: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/kafka");
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "kafka {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A producer quota of a client, lifted at the end.
pub(crate) struct Quota(String);

impl Quota {
    /// So many bytes a second for producers with this `client.id`.
    pub(crate) async fn set(client: &str, bytes_per_second: u32) -> Self {
        harness(&["quota", client, &bytes_per_second.to_string()]).await;
        Self(client.to_owned())
    }

    pub(crate) async fn lift(self) {
        harness(&["quota", &self.0, "none"]).await;
        std::mem::forget(self);
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        run(&["quota".into(), self.0.clone(), "none".into()]);
    }
}

/// What is done to the brokers, undone at the end.
pub(crate) struct Surgery {
    hanging: Vec<i32>,
    dead: Vec<i32>,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Surgery {
    /// The broker hangs: its connections stay, and nobody answers.
    pub(crate) async fn pause(&mut self, broker: i32) {
        self.hanging.push(broker);
        harness(&["pause", &broker.to_string()]).await;
    }

    pub(crate) async fn resume(&mut self, broker: i32) {
        harness(&["resume", &broker.to_string()]).await;
        self.hanging.retain(|hanging| *hanging != broker);
    }

    /// The broker dies by SIGKILL.
    pub(crate) async fn crash(&mut self, broker: i32) {
        self.dead.push(broker);
        harness(&["crash", &broker.to_string()]).await;
    }

    /// The broker shuts down as in a rolling restart, and comes back.
    pub(crate) async fn restart(&mut self, broker: i32) {
        self.dead.push(broker);
        harness(&["stop", &broker.to_string()]).await;
        self.start(broker).await;
    }

    /// The dead broker loses the last records of a topic, as if its disk had not got them.
    pub(crate) async fn lose(&self, broker: i32, topic: &str) {
        harness(&["lose", &broker.to_string(), topic]).await;
    }

    pub(crate) async fn start(&mut self, broker: i32) {
        harness(&["start", &broker.to_string()]).await;
        self.dead.retain(|dead| *dead != broker);
    }
}

impl Drop for Surgery {
    fn drop(&mut self) {
        for broker in &self.hanging {
            run(&["resume".into(), broker.to_string()]);
        }
        for broker in &self.dead {
            run(&["start".into(), broker.to_string()]);
        }
    }
}

/// How long something took that must be quick.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = future.await;
    assert!(begun.elapsed() < limit, "{what} took {:?}", begun.elapsed());
    done
}
