use std::time::{Duration, Instant};

use genesys_simulator::sqs::{QueueSettings, SqsFault, SqsServer};
use reqwest::{Client, Response};
use serde_json::{Value, json};

const QUEUE: &str = "presence";
const DEAD_LETTERS: &str = "presence-dead-letters";

/// A server with a queue that has a dead-letter queue after 2 receives, and a client of it.
pub(crate) struct Queues {
    pub(crate) server: SqsServer,
    http: Client,
}

impl Queues {
    pub(crate) async fn start() -> Self {
        let queues = vec![QueueSettings::new(QUEUE).with_dead_letter_queue(DEAD_LETTERS, 2)];
        let server = SqsServer::start("127.0.0.1:0".parse().unwrap(), queues).await.unwrap();
        Self { server, http: Client::builder().no_proxy().build().unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        self.server.queue_url(QUEUE)
    }

    async fn answer(&self, action: &str, mut parameters: Value) -> Response {
        if parameters.get("QueueUrl").is_none() && action != "GetQueueUrl" {
            parameters["QueueUrl"] = json!(self.url());
        }
        self.http
            .post(self.server.endpoint_url())
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("AmazonSQS.{action}"))
            .body(parameters.to_string())
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn call(&self, action: &str, parameters: Value) -> Value {
        let answer = self.answer(action, parameters).await;
        assert_eq!(answer.status(), 200, "{action}");
        assert_eq!(answer.headers()["content-type"], "application/x-amz-json-1.0");
        answer.json().await.unwrap()
    }

    /// The code of the error.
    async fn error(&self, action: &str, parameters: Value) -> String {
        let answer = self.answer(action, parameters).await;
        assert!(answer.status().is_client_error() || answer.status().is_server_error(), "{action}");
        let error: Value = answer.json().await.unwrap();
        error["__type"].as_str().unwrap().rsplit('#').next().unwrap().to_owned()
    }

    async fn receive(&self, most: u64) -> Vec<Value> {
        let parameters = json!({
            "MaxNumberOfMessages": most,
            "WaitTimeSeconds": 1,
            "MessageSystemAttributeNames": ["SentTimestamp", "ApproximateReceiveCount"],
        });
        let received = self.call("ReceiveMessage", parameters).await;
        received["Messages"].as_array().cloned().unwrap_or_default()
    }
}

fn batch(bodies: &[&str]) -> Value {
    let entries: Vec<_> = bodies
        .iter()
        .enumerate()
        .map(|(id, body)| json!({"Id": format!("m{id}"), "MessageBody": body}))
        .collect();
    json!({ "Entries": entries })
}

#[tokio::test]
async fn a_message_is_sent_received_and_deleted() {
    let queues = Queues::start().await;
    let sent = queues.call("SendMessage", json!({"MessageBody": "hello"})).await;
    assert_eq!(sent["MD5OfMessageBody"], "5d41402abc4b2a76b9719d911017c592");
    let [message] = queues.receive(10).await.try_into().unwrap();
    assert_eq!((&message["Body"], &message["MessageId"]), (&json!("hello"), &sent["MessageId"]));
    assert_eq!(message["MD5OfBody"], sent["MD5OfMessageBody"]);
    assert_eq!(message["Attributes"]["ApproximateReceiveCount"], "1");
    let sent_at: i64 = message["Attributes"]["SentTimestamp"].as_str().unwrap().parse().unwrap();
    assert!(sent_at > 1_700_000_000_000);
    queues.call("DeleteMessage", json!({"ReceiptHandle": message["ReceiptHandle"]})).await;
    let counts = queues.server.counts(QUEUE).unwrap();
    assert_eq!((counts.sent, counts.deleted, counts.visible, counts.in_flight), (1, 1, 0, 0));
}

#[tokio::test]
async fn batches_succeed_and_fail_entry_by_entry() {
    let queues = Queues::start().await;
    let sent = queues.call("SendMessageBatch", batch(&["a", "\u{1}", "c"])).await;
    assert_eq!(sent["Successful"].as_array().unwrap().len(), 2);
    assert_eq!((&sent["Failed"][0]["Id"], &sent["Failed"][0]["SenderFault"]), (&json!("m1"), &json!(true)));
    let received = queues.receive(10).await;
    let entries = json!([
        {"Id": "good", "ReceiptHandle": received[0]["ReceiptHandle"]},
        {"Id": "bad", "ReceiptHandle": "nonsense"},
    ]);
    let deleted = queues.call("DeleteMessageBatch", json!({ "Entries": entries })).await;
    assert_eq!(deleted["Successful"], json!([{"Id": "good"}]));
    assert_eq!(deleted["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
    let back = json!([{"Id": "x", "ReceiptHandle": received[1]["ReceiptHandle"], "VisibilityTimeout": 0}]);
    queues.call("ChangeMessageVisibilityBatch", json!({ "Entries": back })).await;
    assert_eq!(queues.receive(10).await[0]["Attributes"]["ApproximateReceiveCount"], "2");
}

#[tokio::test]
async fn the_bounds_of_the_service_are_kept() {
    let queues = Queues::start().await;
    let eleven: Vec<_> = (0..11).map(|_| "x").collect();
    let twice = json!({"Entries": [{"Id": "a", "MessageBody": "x"}, {"Id": "a", "MessageBody": "x"}]});
    let large = "x".repeat(1_048_577);
    for (action, parameters, code) in [
        ("ReceiveMessage", json!({"MaxNumberOfMessages": 11}), "InvalidParameterValue"),
        ("ReceiveMessage", json!({"WaitTimeSeconds": 21}), "InvalidParameterValue"),
        ("ReceiveMessage", json!({"VisibilityTimeout": 43_201}), "InvalidParameterValue"),
        ("SendMessageBatch", batch(&eleven), "TooManyEntriesInBatchRequest"),
        ("SendMessageBatch", json!({"Entries": []}), "EmptyBatchRequest"),
        ("SendMessageBatch", twice, "BatchEntryIdsNotDistinct"),
        ("SendMessage", json!({"MessageBody": large}), "InvalidParameterValue"),
        ("SendMessage", json!({"MessageBody": "\u{0}"}), "InvalidMessageContents"),
        ("SendMessage", json!({}), "MissingParameter"),
        ("SendMessage", json!({"QueueUrl": "http://x/1/another", "MessageBody": "x"}), "QueueDoesNotExist"),
        ("GetQueueUrl", json!({"QueueName": "another"}), "QueueDoesNotExist"),
        ("DeleteMessage", json!({"ReceiptHandle": "nonsense"}), "ReceiptHandleIsInvalid"),
        ("PurgeQueue", json!({}), "UnsupportedOperation"),
    ] {
        assert_eq!(queues.error(action, parameters).await, code, "{action}");
    }
    assert_eq!(queues.server.counts(QUEUE).unwrap().sent, 0);
}

#[tokio::test]
async fn what_is_received_too_often_is_a_dead_letter() {
    let queues = Queues::start().await;
    queues.call("SendMessage", json!({"MessageBody": "poison"})).await;
    for _ in 0..2 {
        let [message] = queues.receive(1).await.try_into().unwrap();
        let back = json!({"ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0});
        queues.call("ChangeMessageVisibility", back).await;
    }
    assert!(queues.receive(1).await.is_empty());
    assert_eq!(queues.server.bodies(DEAD_LETTERS).unwrap(), ["poison"]);
    assert_eq!(queues.server.counts(QUEUE).unwrap().redriven, 1);
}

#[tokio::test]
async fn a_queue_says_its_url_and_attributes() {
    let queues = Queues::start().await;
    let url = queues.call("GetQueueUrl", json!({"QueueName": QUEUE})).await;
    assert_eq!(url["QueueUrl"], queues.url());
    assert!(queues.server.send(QUEUE, ["a".to_owned(), "b".to_owned()]));
    queues.receive(1).await;
    let all = queues.call("GetQueueAttributes", json!({"AttributeNames": ["All"]})).await;
    let attributes = &all["Attributes"];
    assert_eq!(attributes["ApproximateNumberOfMessages"], "1");
    assert_eq!(attributes["ApproximateNumberOfMessagesNotVisible"], "1");
    assert_eq!(attributes["QueueArn"], "arn:aws:sqs:us-east-1:000000000000:presence");
    let policy: Value = serde_json::from_str(attributes["RedrivePolicy"].as_str().unwrap()).unwrap();
    assert_eq!(policy["maxReceiveCount"], 2);
    let one = queues.call("GetQueueAttributes", json!({"AttributeNames": ["QueueArn"]})).await;
    assert_eq!(one["Attributes"].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_can_be_made_to_fail() {
    let queues = Queues::start().await;
    queues.server.fail(SqsFault::Refuse {
        action: "ReceiveMessage".to_owned(),
        times: 1,
        status: 403,
        code: "AccessDenied".to_owned(),
        message: "not authorized to perform: sqs:receivemessage".to_owned(),
    });
    queues.server.fail(SqsFault::FailFirstEntry {
        action: "SendMessageBatch".to_owned(),
        times: 1,
        code: "InternalError".to_owned(),
        sender_fault: false,
    });
    assert_eq!(queues.error("ReceiveMessage", json!({})).await, "AccessDenied");
    let sent = queues.call("SendMessageBatch", batch(&["a", "b"])).await;
    assert_eq!(sent["Failed"][0]["Code"], "InternalError");
    assert_eq!(queues.server.bodies(QUEUE).unwrap(), ["b"]);
    assert_eq!(queues.receive(10).await.len(), 1);
}

#[tokio::test]
async fn a_stop_ends_a_long_poll() {
    let Queues { server, http } = Queues::start().await;
    let request = http
        .post(server.endpoint_url())
        .header("x-amz-target", "AmazonSQS.ReceiveMessage")
        .body(json!({"QueueUrl": server.queue_url(QUEUE), "WaitTimeSeconds": 20}).to_string());
    let start = Instant::now();
    let poll = tokio::spawn(request.send());
    // A receive that waits has looked at the queue, but no count tells of it: a message that it gets does.
    assert!(server.send(QUEUE, ["a".to_owned()]));
    assert_eq!(poll.await.unwrap().unwrap().status(), 200);
    let request = http
        .post(server.endpoint_url())
        .header("x-amz-target", "AmazonSQS.ReceiveMessage")
        .body(json!({"QueueUrl": server.queue_url(QUEUE), "WaitTimeSeconds": 20}).to_string());
    let poll = tokio::spawn(request.send());
    server.stop().await;
    // It was answered, or came too late to be accepted.
    if let Ok(answer) = poll.await.unwrap() {
        assert_eq!(answer.status(), 200);
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}
