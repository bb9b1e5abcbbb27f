//! The three calls to Amazon SQS that a consumer needs, in its JSON protocol
//! (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html>).
//!
//! Not AWS's SDK: see docs/performance-notes.md for what it would add.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqsign_aws_v4::RequestSigner;
use reqsign_core::{Context, SignRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::error::QueueError;
use super::memory::{Memory, Share};
use crate::aws::shown;
use crate::outbound::{self, cause};
use presenceroute_core::relay_config::SqsConfig;

/// The most messages of one call, and the longest wait for the first of them, as the service has it.
pub(super) const MOST_MESSAGES: usize = 10;
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// How long the service may take beyond what it was asked to wait.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much is read of an answer that holds no messages.
const MOST_ANSWER_BYTES: usize = 256 << 10;

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const BODY_DIGEST: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// A client of one queue. It cannot be printed.
pub(super) struct Client {
    http: reqwest::Client,
    /// Where calls are posted to.
    endpoint: http::Uri,
    queue_url: String,
    signer: RequestSigner,
    credentials: Credentials,
}

/// A message as it was received.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    /// What it is deleted with.
    pub(super) receipt: String,
    pub(super) body: Bytes,
    /// When it was sent, in milliseconds since 1970.
    pub(super) sent: Option<u64>,
    /// How often it was received, this time included; 1 where the service does not say.
    pub(super) receives: u32,
}

/// One message of a batch that the service did not do what it was asked for.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FailedEntry {
    id: String,
    pub(super) code: String,
    /// The request is wrong, and trying it again does not help.
    #[serde(default)]
    pub(super) sender_fault: bool,
}

impl FailedEntry {
    /// Its place in the batch.
    pub(super) fn index(&self) -> Option<usize> {
        self.id.parse().ok()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Receive<'a> {
    queue_url: &'a str,
    max_number_of_messages: usize,
    wait_time_seconds: u64,
    visibility_timeout: u64,
    message_system_attribute_names: [&'a str; 2],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    #[serde(default)]
    messages: Vec<ReceivedMessage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage {
    receipt_handle: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<'a> {
    queue_url: &'a str,
    entries: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry<'a> {
    id: String,
    receipt_handle: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility_timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchAnswer {
    #[serde(default)]
    failed: Vec<FailedEntry>,
}

impl Client {
    /// A client of the queue that `config` names. Files with credentials are followed until `stop`.
    pub(super) async fn new(config: &SqsConfig, stop: CancellationToken) -> Result<Self, QueueError> {
        let address = config.endpoint_url.as_deref().unwrap_or(&config.queue_url);
        let unreadable =
            |cause: String| QueueError::Unreadable { host: shown(address), action: "nothing", cause };
        let endpoint = endpoint(address).ok_or_else(|| unreadable("it is no http or https URL".into()))?;
        let failed = |error: reqwest::Error| unreadable(cause(&error));
        let http = outbound::builder(None, address)
            .connect_timeout(CONNECT_TIMEOUT)
            .http1_only()
            .build()
            .map_err(failed)?;
        let of_credentials = outbound::client(None, "https://sts.amazonaws.com").map_err(failed)?;
        Ok(Self {
            http,
            endpoint,
            queue_url: config.queue_url.clone(),
            signer: RequestSigner::new("sqs", &config.region),
            credentials: Credentials::start(config.credentials.clone(), of_credentials, stop).await,
        })
    }

    /// Receives at most `most` messages, which are hidden from other receivers for `visibility`, and waits for the
    /// first one. The answer is read within `share`, which grows as the answer does.
    pub(super) async fn receive(
        &self,
        most: usize,
        wait: Duration,
        visibility: Duration,
        memory: &Memory,
        share: &mut Share,
    ) -> Result<Vec<Message>, QueueError> {
        let request = Receive {
            queue_url: &self.queue_url,
            max_number_of_messages: most,
            wait_time_seconds: wait.as_secs(),
            visibility_timeout: visibility.as_secs(),
            message_system_attribute_names: ["SentTimestamp", "ApproximateReceiveCount"],
        };
        let received: Received =
            self.call("ReceiveMessage", &request, wait + TIMEOUT, Room::Shared(memory, share)).await?;
        let number = |attributes: &HashMap<String, String>, name| attributes.get(name)?.parse::<u64>().ok();
        let message = |message: ReceivedMessage| Message {
            receipt: message.receipt_handle,
            body: message.body.into(),
            sent: number(&message.attributes, "SentTimestamp"),
            receives: number(&message.attributes, "ApproximateReceiveCount")
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(1),
        };
        Ok(received.messages.into_iter().map(message).collect())
    }

    /// Deletes at most [`MOST_MESSAGES`] messages by their receipts. Returns those that were not deleted.
    pub(super) async fn delete(&self, receipts: &[&str]) -> Result<Vec<FailedEntry>, QueueError> {
        self.batch("DeleteMessageBatch", receipts.iter().map(|receipt| (*receipt, None))).await
    }

    /// Hides at most [`MOST_MESSAGES`] messages from receivers for so long from now on; zero makes a message visible at
    /// once. Returns those for which that was not done.
    pub(super) async fn change_visibility(
        &self,
        changes: &[(&str, Duration)],
    ) -> Result<Vec<FailedEntry>, QueueError> {
        let changes = changes.iter().map(|(receipt, timeout)| (*receipt, Some(timeout.as_secs())));
        self.batch("ChangeMessageVisibilityBatch", changes).await
    }

    async fn batch(
        &self,
        action: &'static str,
        entries: impl Iterator<Item = (&str, Option<u64>)>,
    ) -> Result<Vec<FailedEntry>, QueueError> {
        let entries = entries.enumerate().map(|(index, (receipt_handle, visibility_timeout))| Entry {
            id: index.to_string(),
            receipt_handle,
            visibility_timeout,
        });
        let request = Batch { queue_url: &self.queue_url, entries: entries.collect() };
        let answer: BatchAnswer =
            self.call(action, &request, TIMEOUT, Room::Fixed(MOST_ANSWER_BYTES)).await?;
        Ok(answer.failed)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        action: &'static str,
        request: &impl Serialize,
        timeout: Duration,
        room: Room<'_>,
    ) -> Result<T, QueueError> {
        let answered = self.post(action, request, timeout, room).await;
        if answered.as_ref().is_err_and(QueueError::is_of_credentials) {
            self.credentials.refused().await;
        }
        let body = answered?;
        serde_json::from_slice(&body).map_err(|error| self.unreadable(action, &error))
    }

    async fn post(
        &self,
        action: &'static str,
        request: &impl Serialize,
        timeout: Duration,
        mut room: Room<'_>,
    ) -> Result<Vec<u8>, QueueError> {
        let credential = self.credentials.current().await?;
        let body = serde_json::to_vec(request).map_err(|error| self.unreadable(action, &error))?;
        let digest = HEXLOWER.encode(&Sha256::digest(&body));
        let request = http::Request::post(self.endpoint.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"))
            .header(TARGET, format!("AmazonSQS.{action}"))
            .header(BODY_DIGEST, digest)
            .body(body)
            .map_err(|error| self.unreadable(action, &error))?;
        let (mut head, body) = request.into_parts();
        let signed = self.signer.sign_request(&Context::new(), &mut head, Some(&credential), None).await;
        signed.map_err(|error| QueueError::Credentials(shown(&error.to_string())))?;
        let unanswered = |error: reqwest::Error| QueueError::Unanswered {
            host: self.host(),
            action,
            cause: shown(&cause(&error)),
        };
        let request =
            reqwest::Request::try_from(http::Request::from_parts(head, body)).map_err(unanswered)?;
        let mut request = request;
        *request.timeout_mut() = Some(timeout);
        let mut response = self.http.execute(request).await.map_err(unanswered)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unanswered)? {
            if !room.take(answer.len() + chunk.len()).await {
                let cause = format!("it has more than {} bytes", answer.len());
                return Err(QueueError::Unreadable { host: self.host(), action, cause });
            }
            answer.extend_from_slice(&chunk);
        }
        let status = response.status();
        if !status.is_success() {
            let key = &credential.access_key_id;
            return Err(QueueError::refused(&self.host(), action, status.as_u16(), &answer, key));
        }
        Ok(answer)
    }

    fn host(&self) -> String {
        self.endpoint.authority().map(ToString::to_string).unwrap_or_default()
    }

    /// The error names a place in the answer, never its content.
    fn unreadable(&self, action: &'static str, error: &impl ToString) -> QueueError {
        QueueError::Unreadable { host: self.host(), action, cause: shown(&error.to_string()) }
    }
}

/// How much of an answer may be read.
enum Room<'a> {
    Fixed(usize),
    Shared(&'a Memory, &'a mut Share),
}

impl Room<'_> {
    /// Whether there is room for an answer that has grown to `bytes`; waits for it where others hold it.
    async fn take(&mut self, bytes: usize) -> bool {
        match self {
            Self::Fixed(most) => bytes <= *most,
            Self::Shared(memory, share) => memory.grow(share, bytes).await,
        }
    }
}

/// The root of a URL's host, which the JSON protocol is served at.
fn endpoint(url: &str) -> Option<http::Uri> {
    let uri: http::Uri = url.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
    http::Uri::builder().scheme(scheme).authority(uri.authority()?.as_str()).path_and_query("/").build().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_go_to_the_root_of_the_queues_host() {
        for (url, expected) in [
            (
                "https://sqs.eu-west-1.amazonaws.com/123456789012/presence",
                "https://sqs.eu-west-1.amazonaws.com/",
            ),
            ("http://127.0.0.1:9324/000000000000/presence", "http://127.0.0.1:9324/"),
            (
                "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com",
                "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/",
            ),
        ] {
            assert_eq!(endpoint(url).unwrap().to_string(), expected);
        }
        for wrong in ["presence", "ftp://host/", "arn:aws:sqs:eu-west-1:123456789012:presence", ""] {
            assert!(endpoint(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_batchs_answer_names_what_was_not_done() {
        let answer: BatchAnswer = serde_json::from_str(
            r#"{"Successful":[{"Id":"0"}],"Failed":[{"Id":"1","SenderFault":true,"Code":"ReceiptHandleIsInvalid","Message":"x"},{"Id":"x","Code":"InternalError"}]}"#,
        )
        .unwrap();
        let failed: Vec<_> = answer.failed.iter().map(|entry| (entry.index(), entry.sender_fault)).collect();
        assert_eq!(failed, [(Some(1), true), (None, false)]);
    }
}
