use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use genesys_simulator::sqs::SqsFault;
use genesys_simulator::{Delivery, Outcome, PlanError, PresencePlan, RunState};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::endpoint::Endpoint;
use crate::organisation::{Organisation, json_of};
use crate::queues::Queues;

const QUEUE: &str = "presence";

fn plan(json: Value) -> PresencePlan {
    serde_json::from_str(&json.to_string()).unwrap()
}

async fn set_rules(organisation: &Organisation, rules: Value) {
    let answer = organisation.send(Method::PUT, "/control/event-bus/rules", &rules).await;
    assert_eq!(answer.status(), 200);
}

fn to_queue(queues: &Queues) -> Value {
    json!([{"name": "queue", "target": {"sqs": {"queueUrl": queues.url()}}}])
}

fn to_endpoint(endpoint: &Endpoint) -> Value {
    let target = json!({"apiDestination": {"url": endpoint.url, "apiKey": "k3y", "header": "X-Key"}});
    json!([{"name": "endpoint", "target": target}])
}

async fn with_endpoint(statuses: impl Into<Vec<u16>>) -> (Organisation, Endpoint) {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let endpoint = Endpoint::answering(statuses).await;
    set_rules(&organisation, to_endpoint(&endpoint)).await;
    (organisation, endpoint)
}

async fn run(organisation: &Organisation, json: Value) -> Delivery {
    let run = organisation.simulator.change_presence(plan(json)).unwrap();
    run.finished().await;
    run
}

fn outcomes(run: &Delivery) -> BTreeMap<Outcome, u64> {
    run.summary().outcomes.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[tokio::test]
async fn every_change_arrives_in_the_queue_byte_for_byte() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let queues = Queues::start().await;
    set_rules(&organisation, to_queue(&queues)).await;
    let run = run(&organisation, json!({"agents": 50, "count": 500})).await;
    let summary = run.summary();
    assert_eq!((summary.state, summary.events, summary.unmatched), (RunState::Done, 500, 0));
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Delivered, 500)]));

    let digest = |text: &str| hex::encode(Sha256::digest(text));
    let sent: BTreeSet<_> = run.events().iter().map(|event| event.body_sha256.clone()).collect();
    let bodies = queues.server.bodies(QUEUE).unwrap();
    let arrived: BTreeSet<_> = bodies.iter().map(|body| digest(body)).collect();
    assert_eq!((arrived.len(), &arrived), (500, &sent));

    let users: BTreeSet<_> = run.events().iter().map(|e| e.envelope.clone().unwrap().user_id).collect();
    assert_eq!(users.len(), 50);
    for event in run.events() {
        let (_, detail) = std::str::from_utf8(&event.body).unwrap().split_once(",\"detail\":").unwrap();
        let record = event.envelope.clone().unwrap();
        assert_eq!(record.detail_sha256, digest(detail.strip_suffix('}').unwrap()));
        assert!(detail.contains(&record.user_id.to_string()));
    }
    let mut of_each_type: Vec<_> = summary.event_types.values().copied().collect();
    of_each_type.sort_unstable();
    assert_eq!(of_each_type, [166, 167, 167]);
}

#[tokio::test]
async fn messages_go_to_the_queue_in_batches() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let queues = Queues::start().await;
    set_rules(&organisation, to_queue(&queues)).await;
    // The first message of each request is refused: with a request for each, all would be.
    queues.server.fail(SqsFault::FailFirstEntry {
        action: "SendMessageBatch".to_owned(),
        times: 1_000,
        code: "InvalidMessageContents".to_owned(),
        sender_fault: true,
    });
    let run = run(&organisation, json!({"count": 300, "concurrency": 100})).await;
    let outcomes = outcomes(&run);
    assert!(outcomes[&Outcome::Dropped] < 150, "{outcomes:?}");
    let arrived = queues.server.counts(QUEUE).unwrap().sent;
    assert_eq!(outcomes[&Outcome::Delivered], arrived);
}

#[tokio::test]
async fn a_failed_entry_or_batch_is_sent_again() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let queues = Queues::start().await;
    set_rules(&organisation, to_queue(&queues)).await;
    queues.server.fail(SqsFault::FailFirstEntry {
        action: "SendMessageBatch".to_owned(),
        times: 3,
        code: "InternalError".to_owned(),
        sender_fault: false,
    });
    queues.server.fail(SqsFault::Refuse {
        action: "SendMessageBatch".to_owned(),
        times: 2,
        status: 400,
        code: "RequestThrottled".to_owned(),
        message: "slow down".to_owned(),
    });
    let run = run(&organisation, json!({"count": 100})).await;
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Delivered, 100)]));
    assert_eq!(queues.server.counts(QUEUE).unwrap().sent, 100);
    assert!(run.summary().attempts > 100);
}

#[tokio::test]
async fn a_missing_queue_is_not_tried_again() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let queues = Queues::start().await;
    let url = queues.server.queue_url("another");
    set_rules(&organisation, json!([{"name": "a", "target": {"sqs": {"queueUrl": url}}}])).await;
    let run = run(&organisation, json!({"count": 3})).await;
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Dropped, 3)]));
    let answer = run.events()[0].attempts[0].answer.clone().unwrap();
    assert!(answer.contains("QueueDoesNotExist"), "{answer}");
}

#[tokio::test]
async fn an_api_destination_gets_the_headers_of_aws() {
    let (organisation, endpoint) = with_endpoint([200]).await;
    run(&organisation, json!({"count": 2})).await;
    let [first, second] = endpoint.received().try_into().unwrap();
    for (name, value) in [
        ("user-agent", "Amazon/EventBridge/ApiDestinations"),
        ("content-type", "application/json; charset=utf-8"),
        ("range", "bytes=0-1048575"),
        ("accept-encoding", "gzip,deflate"),
        ("connection", "close"),
        ("x-key", "k3y"),
    ] {
        assert_eq!(first.headers[name], value, "{name}");
    }
    assert_ne!(first.port, second.port, "each request has a connection of its own");
    let envelope: Value = serde_json::from_slice(&first.body).unwrap();
    assert_eq!((&envelope["account"], &envelope["region"]), (&json!("123456789012"), &json!("eu-west-1")));
    assert!(envelope["source"].as_str().unwrap().ends_with("/a"));
}

#[tokio::test]
async fn what_aws_retries_arrives_in_the_end() {
    let (organisation, endpoint) = with_endpoint([401, 407, 409, 429, 500, 503, 200]).await;
    let run = run(&organisation, json!({"count": 1})).await;
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Delivered, 1)]));
    let bodies: BTreeSet<_> = endpoint.received().iter().map(|request| request.body.clone()).collect();
    assert_eq!((endpoint.received().len(), bodies.len()), (7, 1), "the same bytes in every try");
}

#[tokio::test]
async fn what_aws_does_not_retry_is_dropped() {
    for status in [301, 400, 403, 404, 408, 413] {
        let (organisation, endpoint) = with_endpoint([status, 200]).await;
        let run = run(&organisation, json!({"count": 1})).await;
        assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Dropped, 1)]), "{status}");
        assert_eq!(endpoint.received().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_negative_retry_after_ends_an_api_destinations_retries() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let endpoint = Endpoint::answering_with([503], [("retry-after", "-1")]).await;
    set_rules(&organisation, to_endpoint(&endpoint)).await;
    let run = run(&organisation, json!({"count": 1})).await;
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Dropped, 1)]));
    assert_eq!(endpoint.received().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_tried_again() {
    let organisation =
        Organisation::with(|config| config.delivery_timeout = Duration::from_millis(100)).await;
    organisation.integrate("a").await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let rule = json!([{
        "name": "a",
        "target": {"apiDestination": {"url": url}},
        "retryPolicy": {"maximumRetryAttempts": 2},
    }]);
    set_rules(&organisation, rule).await;
    let run = run(&organisation, json!({"count": 1})).await;
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Exhausted, 1)]));
    let attempts = &run.events()[0].attempts;
    assert_eq!(attempts.len(), 3);
    assert!(attempts.iter().all(|attempt| attempt.status.is_none() && attempt.error.is_some()));
}

#[tokio::test]
async fn no_more_requests_than_the_invocation_rate_begin() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let endpoint = Endpoint::answering([200]).await;
    let target = json!({"apiDestination": {"url": endpoint.url, "invocationRateLimitPerSecond": 20}});
    set_rules(&organisation, json!([{"name": "a", "target": target}])).await;
    let start = std::time::Instant::now();
    run(&organisation, json!({"count": 11})).await;
    assert!(start.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn only_active_integrations_and_matching_rules_send() {
    let organisation = Organisation::start().await;
    let queues = Queues::start().await;
    set_rules(&organisation, to_queue(&queues)).await;
    assert_eq!(run(&organisation, json!({"count": 3})).await.summary().unmatched, 3);

    organisation.integrate("a").await;
    organisation.integrate("b").await;
    assert_eq!(run(&organisation, json!({"count": 3})).await.summary().deliveries, 6);
    let source = organisation.simulator.integrations()[1].event_source.clone().unwrap();
    let one = run(&organisation, json!({"count": 3, "eventSource": source})).await.summary();
    assert_eq!((one.events, one.deliveries), (3, 3));
    let other_topic = run(&organisation, json!({"count": 3, "topics": ["v2.users.{id}.outofoffice"]})).await;
    assert_eq!(other_topic.summary().unmatched, 3);

    let mut rules = to_queue(&queues);
    rules[0]["eventSource"] = json!(source);
    rules[0]["detailTypes"] = json!(["v2.users.{id}.presence"]);
    set_rules(&organisation, rules).await;
    let filtered = run(&organisation, json!({"count": 3})).await.summary();
    assert_eq!((filtered.deliveries, filtered.unmatched), (1, 2));

    organisation.simulator.fail_integrations(Some("broken".to_owned()));
    assert_eq!(run(&organisation, json!({"count": 3})).await.summary().unmatched, 3);
}

#[tokio::test]
async fn a_run_of_the_bus_is_read_like_any_other() {
    let (organisation, _endpoint) = with_endpoint([200]).await;
    let started = organisation.send(Method::POST, "/control/presence-changes", &json!({"count": 2})).await;
    assert_eq!(started.status(), 202);
    let path = format!("/control/deliveries/{}", json_of(started).await["id"].as_str().unwrap());
    let summary = json_of(organisation.get(&format!("{path}?waitSeconds=30")).await).await;
    assert_eq!((&summary["state"], &summary["outcomes"]["delivered"]), (&json!("done"), &json!(2)));
    let events = json_of(organisation.get(&format!("{path}/events")).await).await;
    assert_eq!(events[0]["rule"], "endpoint");
    assert!(events[0]["userId"].is_string() && events[0]["detailSha256"].is_string());
    assert!(events[0].get("registrationId").is_none());
}

#[tokio::test]
async fn a_stopped_run_abandons_what_waits() {
    let organisation = Organisation::with(|config| config.retry_base_delay = Duration::from_secs(600)).await;
    organisation.integrate("a").await;
    let endpoint = Endpoint::answering([503]).await;
    set_rules(&organisation, to_endpoint(&endpoint)).await;
    let run = organisation.simulator.change_presence(plan(json!({"count": 1}))).unwrap();
    endpoint.has_received(1).await;
    run.stop();
    assert_eq!(run.finished().await.state, RunState::Stopped);
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Abandoned, 1)]));
}

#[tokio::test]
async fn a_run_that_is_to_finish_delivers_what_waits() {
    let (organisation, endpoint) = with_endpoint([503, 200]).await;
    let run = organisation.simulator.change_presence(plan(json!({"ratePerSecond": 1}))).unwrap();
    endpoint.has_received(1).await;
    let path = format!("/control/deliveries/{}?finish=true", run.id());
    assert_eq!(organisation.request(Method::DELETE, &path).send().await.unwrap().status(), 202);
    let summary = run.finished().await;
    assert_eq!(summary.state, RunState::Done);
    assert_eq!(outcomes(&run), BTreeMap::from([(Outcome::Delivered, summary.events)]));
}

#[tokio::test]
async fn rules_are_shown_without_secrets_and_checked() {
    let (organisation, endpoint) = with_endpoint([200]).await;
    let path = "/control/event-bus/rules";
    let shown = json_of(organisation.get(path).await).await;
    assert!(!shown.to_string().contains("k3y"), "{shown}");
    assert_eq!(shown[0]["target"]["apiDestination"]["url"], endpoint.url);
    assert_eq!(shown[0]["retryPolicy"]["maximumRetryAttempts"], 185);
    let wrong = json!([{"name": "", "target": shown[0]["target"]}]);
    assert_eq!(organisation.send(Method::PUT, path, &wrong).await.status(), 400);
    assert_eq!(organisation.simulator.event_bus_rules().len(), 1);
    organisation.request(Method::DELETE, path).send().await.unwrap();
    let none = organisation.simulator.change_presence(PresencePlan::default());
    assert_eq!(none.unwrap_err(), PlanError::NoRule);
}

#[tokio::test]
async fn a_request_to_a_queue_is_signed_with_its_key() {
    let organisation = Organisation::start().await;
    organisation.integrate("a").await;
    let endpoint = Endpoint::answering([500]).await;
    let credentials = json!({"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "s3cret"});
    let target = json!({"sqs": {
        "queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/presence",
        "endpointUrl": endpoint.url,
        "region": "eu-west-1",
        "credentials": credentials,
    }});
    let rule = json!([{"name": "a", "target": target, "retryPolicy": {"maximumRetryAttempts": 0}}]);
    set_rules(&organisation, rule).await;
    run(&organisation, json!({"count": 1})).await;
    let request = endpoint.received().pop().unwrap();
    let authorization = request.headers["authorization"].to_str().unwrap();
    assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
    assert!(authorization.contains("/eu-west-1/sqs/aws4_request"), "{authorization}");
    assert_eq!(request.headers["x-amz-content-sha256"], hex::encode(Sha256::digest(&request.body)));
    assert_eq!(request.headers["x-amz-target"], "AmazonSQS.SendMessageBatch");
}
