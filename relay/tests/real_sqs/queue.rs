//! A queue of the harness's server, as its sender and its owner see it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use presenceroute_core::relay_config::{KafkaConfig, Limits, SourceConfig, SqsConfig};
use presenceroute_relay::{Relay, RunningRelay, SecretSource, Settings};
use serde_json::{Value, json};

use crate::support;

/// How long everything may take that has no time of its own.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const TYPE: &str = "v2.users.{id}.presence";

/// A queue of one test alone.
pub(crate) struct Queue {
    pub(crate) endpoint: String,
    region: String,
    pub(crate) url: String,
    dead_url: Option<String>,
    http: reqwest::Client,
}

/// How many messages a queue has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) visible: u64,
    pub(crate) hidden: u64,
}

pub(crate) const EMPTY: Count = Count { visible: 0, hidden: 0 };

pub(crate) fn variable(name: &str, part: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: tests/harness/{part} up && eval \"$(tests/harness/{part} env)\"")
    })
}

/// A client of a server on this machine.
pub(crate) fn http_client() -> reqwest::Client {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    reqwest::Client::builder().tls_certs_only([]).timeout(PATIENCE).build().unwrap()
}

/// A name that no other run has: the servers keep what they were told.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Queue {
    pub(crate) async fn new() -> Self {
        Self::create(None).await
    }

    /// With a dead-letter queue, for messages that were received so often.
    pub(crate) async fn with_dead_letters(receives: u32) -> Self {
        Self::create(Some(receives)).await
    }

    async fn create(receives: Option<u32>) -> Self {
        let (endpoint, region) = (variable("SQS_ENDPOINT", "sqs"), variable("SQS_REGION", "sqs"));
        let http = http_client();
        let mut queue = Self { endpoint, region, url: String::new(), dead_url: None, http };
        let name = unique("relay");
        let mut attributes = json!({});
        if let Some(receives) = receives {
            let dead = queue.call("CreateQueue", json!({"QueueName": format!("{name}-dead")})).await;
            let dead = dead["QueueUrl"].as_str().unwrap().to_owned();
            let arn = queue
                .call("GetQueueAttributes", json!({"QueueUrl": dead, "AttributeNames": ["QueueArn"]}))
                .await;
            let policy =
                json!({"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": receives});
            attributes = json!({"RedrivePolicy": policy.to_string()});
            queue.dead_url = Some(dead);
        }
        let created = queue.call("CreateQueue", json!({"QueueName": name, "Attributes": attributes})).await;
        queue.url = created["QueueUrl"].as_str().unwrap().to_owned();
        queue
    }

    async fn call(&self, action: &str, request: Value) -> Value {
        let request = self
            .http
            .post(&self.endpoint)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .body(request.to_string());
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{action}: {status}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    pub(crate) async fn send(&self, bodies: &[String]) {
        for batch in bodies.chunks(10) {
            let entries: Vec<_> = batch
                .iter()
                .enumerate()
                .map(|(index, body)| json!({"Id": index.to_string(), "MessageBody": body}))
                .collect();
            let sent = self.call("SendMessageBatch", json!({"QueueUrl": self.url, "Entries": entries})).await;
            assert_eq!(sent["Successful"].as_array().unwrap().len(), batch.len(), "{sent}");
        }
    }

    pub(crate) async fn count(&self) -> Count {
        self.count_of(&self.url).await
    }

    pub(crate) async fn dead(&self) -> Count {
        self.count_of(self.dead_url.as_ref().unwrap()).await
    }

    async fn count_of(&self, url: &str) -> Count {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer = self.call("GetQueueAttributes", json!({"QueueUrl": url, "AttributeNames": names})).await;
        let [visible, hidden] =
            names.map(|name| answer["Attributes"][name].as_str().unwrap().parse().unwrap());
        Count { visible, hidden }
    }

    /// Waits until it has so many messages.
    pub(crate) async fn becomes(&self, expected: Count) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let count = self.count().await;
            if count == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "still {count:?}, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until every message is deleted or a dead letter.
    pub(crate) async fn becomes_empty(&self) {
        self.becomes(EMPTY).await;
    }

    pub(crate) fn config(&self) -> SqsConfig {
        SqsConfig {
            queue_url: self.url.clone(),
            region: self.region.clone(),
            endpoint_url: Some(self.endpoint.clone()),
            credentials: Some(access_key("AKIDEXAMPLE", "secret")),
        }
    }
}

/// Files with an access key, which stay.
pub(crate) fn access_key(id: &str, secret: &str) -> presenceroute_core::relay_config::AwsCredentialFiles {
    let directory = tempfile::tempdir().unwrap().keep();
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    presenceroute_core::relay_config::AwsCredentialFiles {
        access_key_id_file: file("accessKeyId", id),
        secret_access_key_file: file("secretAccessKey", secret),
        session_token_file: None,
    }
}

/// Settings of a relay that receives from a queue, with the limits that people get.
pub(crate) fn settings(source: SqsConfig, kafka: KafkaConfig, table: &str) -> Settings {
    let mut settings = support::settings("unused:1", table);
    settings.config.source = SourceConfig::Sqs(source);
    settings.config.kafka = kafka;
    settings.config.limits = Limits { drain_ms: 0, ..Limits::default() };
    settings.secrets = SecretSource::None;
    settings
}

/// A table that sends presence to a topic, by user, and drops the rest.
pub(crate) fn to_topic(topic: &str) -> String {
    format!("version: 1\nroutes: [{{eventType: '{TYPE}', topic: '{topic}', key: subject}}]\n")
}

/// A relay that receives.
pub(crate) async fn relay(settings: Settings) -> RunningRelay {
    let relay = Relay::start(settings).await.unwrap();
    support::eventually("the relay is ready", || {
        let status = relay.status();
        status.kafka.reachable && status.queue.is_some_and(|queue| queue.readable)
    })
    .await;
    relay
}

/// Waits for what may take as long as a receive waits, or a message is hidden.
pub(crate) async fn soon(what: &str, condition: impl Fn() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An envelope as Amazon EventBridge sends it, and its detail.
pub(crate) fn envelope(id: &str, user: &str) -> (String, String) {
    envelope_of(TYPE, id, user)
}

pub(crate) fn envelope_of(event_type: &str, id: &str, user: &str) -> (String, String) {
    let topic = event_type.replace("{id}", user);
    let detail = format!(
        r#"{{"topicName":"{topic}","version":"2","eventBody":{{"source":"PURECLOUD","presenceDefinition":{{"id":"d-1","systemPresence":"AVAILABLE"}},"primary":true,"message":"caf\u00e9 ☕","modifiedDate":"2026-03-19T22:04:48.128Z"}},"metadata":{{"CorrelationId":"c-{id}"}},"timestamp":"2026-03-19T22:04:48.200Z"}}"#
    );
    let envelope = format!(
        r#"{{"version":"0","id":"{id}","detail-type":"{event_type}","source":"aws.partner/genesys.com/cloud/org-1/presence","account":"123456789012","time":"2026-03-19T22:04:48Z","region":"eu-west-1","resources":[],"detail":{detail}}}"#
    );
    (envelope, detail)
}

/// So many envelopes, of a few users.
pub(crate) fn envelopes(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| envelope(&format!("{prefix}-{number}"), &format!("u-{}", number % 7)).0).collect()
}
