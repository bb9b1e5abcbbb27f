//! A queue as the target: what is to be sent at the same time goes in batches, by the JSON protocol of Amazon SQS.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::{Context, SignRequest as _};
use reqwest::{Client, Url};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::retry::Verdict;
use super::rule::SqsTarget;
use super::{Answer, Tried};
use crate::delivery::explain;
use crate::moment::Moment;

/// Messages in one request, the most that Amazon SQS takes.
const BATCH: usize = 10;
/// Requests at once.
const REQUESTS: usize = 8;
/// Messages that wait for a request.
const WAITING: usize = 1_024;
/// The longest answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;
const DEFAULT_REGION: &str = "us-east-1";

/// The codes of an error that passes.
const PASSING: [&str; 5] = ["Throttl", "OverLimit", "ServiceUnavailable", "InternalFailure", "InternalError"];

/// A queue. Its requests are made by a task that ends when this is dropped.
pub(super) struct Queue {
    messages: mpsc::Sender<Message>,
}

struct Message {
    body: Bytes,
    answer: oneshot::Sender<Answer>,
}

impl Queue {
    pub(super) fn new(target: &SqsTarget, client: Client) -> Result<Self, String> {
        let url = |text: &String| text.parse::<Url>().map_err(|_| format!("{text:?} must be a URL"));
        let mut endpoint = url(target.endpoint_url.as_ref().unwrap_or(&target.queue_url))?;
        if target.endpoint_url.is_none() {
            endpoint.set_path("/");
        }
        let credential = target.credentials.as_ref().map(|credentials| Credential {
            access_key_id: credentials.access_key_id.clone(),
            secret_access_key: credentials.secret_access_key.expose_secret().to_owned(),
            ..Credential::default()
        });
        let region = target.region.as_deref().unwrap_or(DEFAULT_REGION);
        let api = Arc::new(Api {
            client,
            endpoint,
            queue_url: target.queue_url.clone(),
            credential,
            signer: RequestSigner::new("sqs", region),
        });
        let (messages, waiting) = mpsc::channel(WAITING);
        tokio::spawn(send_all(api, waiting));
        Ok(Self { messages })
    }

    pub(super) async fn send(&self, body: Bytes) -> Tried {
        let (at, start) = (Moment::now(), Instant::now());
        let (answer, answered) = oneshot::channel();
        // The task lives as long as this, and answers each message.
        let sent = self.messages.send(Message { body, answer }).await.is_ok();
        let answer = if sent { answered.await.ok() } else { None };
        answer.unwrap_or_else(|| Answer::none("the sender has ended".to_owned())).since(at, start)
    }
}

async fn send_all(api: Arc<Api>, mut waiting: mpsc::Receiver<Message>) {
    let requests = Arc::new(Semaphore::new(REQUESTS));
    while let Ok(request) = Arc::clone(&requests).acquire_owned().await {
        let mut batch = Vec::with_capacity(BATCH);
        if waiting.recv_many(&mut batch, BATCH).await == 0 {
            break;
        }
        let api = Arc::clone(&api);
        tokio::spawn(async move {
            let bodies: Vec<_> = batch.iter().map(|message| message.body.clone()).collect();
            let answers = api.send_batch(&bodies).await;
            for (message, answer) in batch.into_iter().zip(answers) {
                // A run that was stopped has stopped waiting.
                let _ = message.answer.send(answer);
            }
            drop(request);
        });
    }
}

struct Api {
    client: Client,
    endpoint: Url,
    queue_url: String,
    credential: Option<Credential>,
    signer: RequestSigner,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchResult {
    #[serde(default)]
    successful: Vec<Successful>,
    #[serde(default)]
    failed: Vec<Failed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Successful {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    id: String,
    code: String,
    #[serde(default)]
    sender_fault: bool,
}

impl Api {
    /// The answer of each message.
    async fn send_batch(&self, bodies: &[Bytes]) -> Vec<Answer> {
        match self.request(bodies).await {
            Ok((200, text)) => match serde_json::from_slice(&text) {
                Ok(result) => by_message(result, bodies.len()),
                Err(error) => {
                    let unreadable = || Answer::none(format!("the answer cannot be read: {error}"));
                    bodies.iter().map(|_| unreadable()).collect()
                }
            },
            Ok((status, text)) => {
                let text = String::from_utf8_lossy(&text).chars().take(256).collect::<String>();
                bodies.iter().map(|_| refusal(status, text.clone())).collect()
            }
            Err(error) => bodies.iter().map(|_| Answer::none(error.clone())).collect(),
        }
    }

    async fn request(&self, bodies: &[Bytes]) -> Result<(u16, Vec<u8>), String> {
        let entries: Vec<_> = bodies
            .iter()
            .enumerate()
            .map(|(id, body)| json!({"Id": id.to_string(), "MessageBody": String::from_utf8_lossy(body)}))
            .collect();
        let body = json!({"QueueUrl": self.queue_url, "Entries": entries}).to_string();
        let mut request = Request::post(self.endpoint.as_str())
            .header(CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", "AmazonSQS.SendMessageBatch")
            .body(())
            .map_err(|error| error.to_string())?;
        if self.credential.is_some() {
            let digest = hex::encode(Sha256::digest(&body));
            let digest = HeaderValue::from_str(&digest).map_err(|error| error.to_string())?;
            request.headers_mut().insert("x-amz-content-sha256", digest);
        }
        let (mut head, ()) = request.into_parts();
        self.signer
            .sign_request(&Context::new(), &mut head, self.credential.as_ref(), None)
            .await
            .map_err(|error| format!("cannot sign the request: {error}"))?;
        let request = self.client.post(self.endpoint.clone()).headers(head.headers).body(body);
        let mut response = request.send().await.map_err(explain)?;
        let status = response.status().as_u16();
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            if text.len() + chunk.len() > LONGEST_ANSWER {
                return Err(format!("the answer has more than {LONGEST_ANSWER} bytes"));
            }
            text.extend_from_slice(&chunk);
        }
        Ok((status, text))
    }
}

/// The answers in the order of the messages. One that the server does not mention is tried again.
fn by_message(result: BatchResult, messages: usize) -> Vec<Answer> {
    let mut answers: HashMap<String, Answer> = HashMap::new();
    for Successful { id } in result.successful {
        let accepted = Answer { status: Some(200), error: None, text: None, verdict: Verdict::Accepted };
        answers.insert(id, accepted);
    }
    for Failed { id, code, sender_fault } in result.failed {
        let status = if sender_fault { 400 } else { 500 };
        answers.insert(id, refusal(status, code));
    }
    (0..messages)
        .map(|id| {
            answers
                .remove(&id.to_string())
                .unwrap_or_else(|| Answer::none("the answer does not mention the message".to_owned()))
        })
        .collect()
}

/// A refusal, tried again where it passes: a queue that is missing or forbidden stays so.
fn refusal(status: u16, text: String) -> Answer {
    let passes = status >= 500 || status == 429 || PASSING.iter().any(|code| text.contains(code));
    let verdict = if passes { Verdict::TryAgain { retry_after: None } } else { Verdict::Refused };
    Answer { status: Some(status), error: None, text: Some(text), verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_of_a_batch_has_its_own_answer() {
        let result = json!({
            "Successful": [{"Id": "2"}],
            "Failed": [
                {"Id": "0", "Code": "InternalError", "SenderFault": false},
                {"Id": "1", "Code": "InvalidMessageContents", "SenderFault": true},
            ],
        });
        let result = serde_json::from_str(&result.to_string()).unwrap();
        let verdicts: Vec<_> = by_message(result, 4).into_iter().map(|answer| answer.verdict).collect();
        let again = Verdict::TryAgain { retry_after: None };
        assert_eq!(verdicts, [again, Verdict::Refused, Verdict::Accepted, again]);
    }

    #[test]
    fn what_passes_is_tried_again_and_the_rest_is_not() {
        let again = Verdict::TryAgain { retry_after: None };
        assert_eq!(refusal(503, String::new()).verdict, again);
        assert_eq!(refusal(400, "com.amazonaws.sqs#RequestThrottled".to_owned()).verdict, again);
        assert_eq!(refusal(400, "com.amazonaws.sqs#QueueDoesNotExist".to_owned()).verdict, Verdict::Refused);
        assert_eq!(refusal(403, "AccessDenied".to_owned()).verdict, Verdict::Refused);
    }
}
