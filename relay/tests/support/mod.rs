//! A relay in this process, a broker in this process, and a sender that speaks HTTP over a real socket.

// Each test file uses its part.
#![allow(dead_code)]
// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use presenceroute_core::relay_config::{KafkaConfig, Limits, RelayConfig, SourceConfig};
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_core::routing::RoutingTable;
use presenceroute_relay::{Relay, RoutingSource, RunningRelay, SecretKind, SecretSource, Secrets, Settings};
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const SECRET: &str = "a signing secret";
pub(crate) const PATH: &str = "/eventbridge/presence";
pub(crate) const TABLE: &str = "{presence:state:changed: gen-presence-state}";

/// How long a condition may take to come true before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A broker with these topics, one partition each.
pub(crate) fn kafka(topics: &[&str]) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    for topic in topics {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    cluster
}

/// Settings for a relay on free ports, which does not linger when it ends.
pub(crate) fn settings(brokers: &str, table: &str) -> Settings {
    Settings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        config: RelayConfig {
            source: SourceConfig::Webhook,
            path: PATH.into(),
            former_paths: Vec::new(),
            signature_header: "X-Genesys-Event-Signature".into(),
            kafka: KafkaConfig {
                bootstrap_servers: brokers.split(',').map(str::to_owned).collect(),
                ..KafkaConfig::default()
            },
            limits: Limits { publish_timeout_ms: 2_000, drain_ms: 0, ..Limits::default() },
            tls: None,
            tls_port: None,
            route: None,
        },
        routing: RoutingSource::Fixed(RoutingTable::parse(table).unwrap()),
        secrets: SecretSource::Fixed(
            Secrets::single(SecretKind::SigningSecret, "test", &SECRET.into()).unwrap(),
        ),
        presence_definitions: None,
        spans: None,
    }
}

/// A relay that is ready.
pub(crate) async fn relay(settings: Settings) -> RunningRelay {
    let relay = Relay::start(settings).await.unwrap();
    eventually("the relay is ready", || relay.status().kafka.reachable).await;
    relay
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn sign(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    hex::encode(mac.chain_update(body).finalize().into_bytes())
}

pub(crate) fn event(id: &str) -> String {
    event_of("presence:state:changed", id)
}

pub(crate) fn event_of(event_type: &str, id: &str) -> String {
    format!(
        r#"{{"id":"{id}","eventType":"{event_type}","timestamp":1700000000123,"source":"org-1","attributes":{{"userId":"u-{id}","presence":"AVAILABLE"}}}}"#
    )
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The last part of the problem's type.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        let kind = problem["type"].as_str().unwrap();
        kind.strip_prefix("urn:presenceroute:problem:").unwrap().to_owned()
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

/// A request as it goes over the wire.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: relay\r\n");
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [bytes.as_bytes(), body].concat()
}

pub(crate) fn signed(secret: &str, body: &[u8]) -> Vec<u8> {
    request("POST", PATH, &[("X-Genesys-Event-Signature", &sign(secret, body))], body)
}

/// Sends bytes on a connection of their own and reads the answer to them.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_answer(&mut stream).await.expect("an answer")
}

/// Reads one answer, or `None` where the connection ends first.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> Option<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
}

/// Posts a body that is signed as it must be.
pub(crate) async fn post(relay: &RunningRelay, body: &str) -> Answer {
    exchange(relay.address(), &signed(SECRET, body.as_bytes())).await
}

/// Gets a page of the admin port.
pub(crate) async fn get(relay: &RunningRelay, path: &str) -> Answer {
    exchange(relay.admin_address(), &request("GET", path, &[], b"")).await
}

pub(crate) async fn status(relay: &RunningRelay) -> RelayStatus {
    serde_json::from_str(&get(relay, "/status").await.body).unwrap()
}

/// Waits until the metrics hold all of this.
pub(crate) async fn metrics_show(relay: &RunningRelay, expected: &[&str]) {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let metrics = get(relay, "/metrics").await.body;
        let Some(missing) = expected.iter().find(|text| !metrics.contains(**text)) else { return };
        assert!(std::time::Instant::now() < until, "never: {missing} in {metrics}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Consumed {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// Everything that is in a topic, when it has as many records as are expected.
pub(crate) async fn records(brokers: &str, topic: &str, expected: usize) -> Vec<Consumed> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    let found = tokio::task::spawn_blocking(move || consume(&brokers, &topic)).await.unwrap();
    assert_eq!(found.len(), expected, "{found:?}");
    found
}

/// Everything that is in a topic now, each partition in its order.
pub(crate) fn consume(brokers: &str, topic: &str) -> Vec<Consumed> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let mut assignment = rdkafka::TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap() {
        assignment.add_partition_offset(topic, partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut found = Vec::new();
    let mut ended = 0;
    while ended < partitions {
        match consumer.poll(PATIENCE).expect("records within patience") {
            Ok(message) => found.push(Consumed {
                key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
                value: String::from_utf8(message.payload().unwrap().to_vec()).unwrap(),
                headers: message
                    .headers()
                    .unwrap()
                    .iter()
                    .map(|header| {
                        let value = String::from_utf8(header.value.unwrap().to_vec()).unwrap();
                        (header.key.to_owned(), value)
                    })
                    .collect(),
            }),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    found
}

/// Puts files where the kubelet would: in a new directory, to which the link `..data` is swapped.
pub(crate) fn mount(directory: &Path, generation: &str, files: &[(&str, &str)]) {
    let data = directory.join(format!("..{generation}"));
    std::fs::create_dir(&data).unwrap();
    for (name, content) in files {
        std::fs::write(data.join(name), content).unwrap();
        let link = directory.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    std::os::unix::fs::symlink(format!("..{generation}"), directory.join("..data_tmp")).unwrap();
    std::fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
}
