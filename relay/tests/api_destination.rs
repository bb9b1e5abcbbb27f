//! The source `apiDestination`, as Amazon EventBridge calls it: an envelope a request, an API key in a header, a connection
//! each, and 5 s for an answer.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use presenceroute_core::relay_config::{ApiDestinationConfig, Limits, SourceConfig};
use presenceroute_core::routing::{RecordKey, RoutingTable};
use presenceroute_relay::{Relay, RoutingSource, RunningRelay, SecretKind, SecretSource, Secrets, Settings};
use support::*;

const KEY: &str = "an API key of an API destination";
const HEADER: &str = "X-Api-Key";
const PRESENCE: &str = "{'v2.users.{id}.presence': gen-presence-state}";
const USER: &str = "97b9e5a4-8d9c-4a2e-9d1d-6a8c1e0f7b21";

/// A relay's settings as [`settings`], for an API destination with the default limits.
fn destination(brokers: &str, table: &str) -> Settings {
    let mut settings = settings(brokers, "{a: b}");
    settings.config.source = SourceConfig::ApiDestination(ApiDestinationConfig { header: HEADER.into() });
    settings.config.limits = Limits { drain_ms: 0, ..Limits::default() };
    settings.routing = RoutingSource::Fixed(RoutingTable::parse_with(table, &RecordKey::Subject).unwrap());
    settings.secrets = SecretSource::Fixed(Secrets::single(SecretKind::ApiKey, "key", &KEY.into()).unwrap());
    settings
}

fn detail(id: &str) -> String {
    format!(
        r#"{{"topicName":"v2.users.{USER}.presence","version":"2","eventBody":{{"source":"PURECLOUD","presenceDefinition":{{"id":"{id}","systemPresence":"AVAILABLE"}},"primary":true,"message":"","modifiedDate":"2026-03-19T22:04:47.904Z"}},"metadata":{{"CorrelationId":"c-1"}},"timestamp":"2026-03-19T22:04:48.128Z"}}"#
    )
}

fn envelope(id: &str) -> String {
    envelope_of("v2.users.{id}.presence", id, &detail(id))
}

fn envelope_of(detail_type: &str, id: &str, detail: &str) -> String {
    format!(
        r#"{{"version":"0","id":"{id}","detail-type":"{detail_type}","source":"aws.partner/genesys.com/cloud/o-1/desk","account":"123456789012","time":"2026-03-19T22:04:48Z","region":"eu-west-1","resources":[],"detail":{detail}}}"#
    )
}

/// A request with the headers that Amazon EventBridge sends.
fn delivery(key: Option<&str>, body: &str) -> Vec<u8> {
    let mut headers = vec![
        ("User-Agent", "Amazon/EventBridge/ApiDestinations"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Range", "bytes=0-1048575"),
        ("Accept-Encoding", "gzip,deflate"),
        ("Connection", "close"),
    ];
    headers.extend(key.map(|key| (HEADER, key)));
    request("POST", PATH, &headers, body.as_bytes())
}

async fn deliver(relay: &RunningRelay, body: &str) -> Answer {
    exchange(relay.address(), &delivery(Some(KEY), body)).await
}

#[tokio::test]
async fn an_acknowledged_envelope_is_200_and_its_record_is_the_detail() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(destination(&kafka.bootstrap_servers(), PRESENCE)).await;
    let answer = deliver(&relay, &envelope("e-1")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"processed"}"#));
    // What the request says of ranges and encodings is for another kind of server.
    assert!(
        !answer.headers.contains_key("content-range") && !answer.headers.contains_key("content-encoding")
    );
    assert_eq!(answer.headers["connection"], "close");
    // Sent again, as when the answer was lost.
    assert_eq!(deliver(&relay, &envelope("e-1")).await.status, 200);
    let record = records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await.remove(0);
    assert_eq!((record.key.as_str(), &record.value), (USER, &detail("e-1")));
    for (name, value) in [
        ("ce_id", "e-1"),
        ("ce_type", "v2.users.{id}.presence"),
        ("ce_source", "aws.partner/genesys.com/cloud/o-1/desk"),
        ("ce_subject", USER),
        ("ce_time", "2026-03-19T22:04:47.904Z"),
    ] {
        assert_eq!(record.headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn without_an_active_key_it_is_401_before_the_body_is_read() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(destination(&kafka.bootstrap_servers(), PRESENCE)).await;
    let body = envelope("e-1");
    for (key, problem) in [
        (None, "api-key-missing"),
        (Some(""), "api-key-mismatch"),
        (Some(&KEY[1..]), "api-key-mismatch"),
        (Some("an API key of an API destinatioN"), "api-key-mismatch"),
    ] {
        let whole = delivery(key, &body);
        // The relay answers without having had the body.
        let answer = exchange(relay.address(), &whole[..whole.len() - body.len()]).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, problem));
        assert_eq!(
            (answer.headers["www-authenticate"].as_str(), answer.headers["connection"].as_str()),
            ("ApiKey", "close")
        );
        assert!(answer.detail().contains("x-api-key") && !answer.body.contains(KEY), "{}", answer.body);
    }
    assert_eq!(deliver(&relay, &body).await.status, 200);
    let status = status(&relay).await;
    assert_eq!((status.signatures.accepted, status.signatures.refused), (1, 3));
    assert_eq!(status.secrets.used, [("key".to_owned(), 1)].into());
    let metrics = get(&relay, "/metrics").await.body;
    let counted = r#"presenceroute_relay_requests_total{code="401",reason="api-key-mismatch"} 3"#;
    assert!(metrics.contains(counted) && !metrics.contains(KEY), "{metrics}");
}

#[tokio::test]
async fn a_request_that_breaks_several_rules_is_told_the_first() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(destination(&kafka.bootstrap_servers(), PRESENCE)).await;
    let (key, gzip) = (format!("{HEADER}: {KEY}\r\n"), "content-encoding: gzip\r\n");
    for (line, headers, length, expected) in [
        ("GET /other", gzip.to_owned(), 2 << 20, (404, "unknown-path")),
        ("GET /eventbridge/presence", gzip.to_owned(), 2 << 20, (405, "method-not-allowed")),
        ("POST /eventbridge/presence", gzip.to_owned(), 2 << 20, (413, "body-too-large")),
        ("POST /eventbridge/presence", gzip.to_owned(), 7, (401, "api-key-missing")),
        ("POST /eventbridge/presence", format!("{HEADER}: x\r\n{gzip}"), 7, (401, "api-key-mismatch")),
        ("POST /eventbridge/presence", format!("{key}{gzip}"), 7, (415, "encoding-unsupported")),
        ("POST /eventbridge/presence", key.clone(), 7, (503, "body-timeout")),
        ("POST /eventbridge/presence", key.clone(), 6, (400, "event-invalid")),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: relay\r\n{headers}content-length: {length}\r\n\r\n");
        let answer = exchange(relay.address(), format!("{head}[null]").as_bytes()).await;
        assert_eq!((answer.status, answer.problem().as_str()), expected, "{head}");
    }
}

/// An answer that makes Amazon EventBridge send the event again, before it gives the request up.
fn assert_sent_again(answer: &Answer, begun: Instant, problem: &str) {
    assert!(begun.elapsed() < Duration::from_millis(4_500), "{problem}: {:?}", begun.elapsed());
    assert_eq!((answer.status, answer.problem().as_str()), (503, problem));
    assert!(answer.headers["retry-after"].parse::<u32>().unwrap() > 0, "{problem}");
}

#[tokio::test]
async fn a_silent_broker_is_answered_before_the_sender_gives_up() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(destination(&kafka.bootstrap_servers(), PRESENCE)).await;
    kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    let begun = Instant::now();
    assert_sent_again(&deliver(&relay, &envelope("e-1")).await, begun, "kafka-unavailable");
    // A repetition waits for the first one, and no longer either.
    let begun = Instant::now();
    assert_sent_again(&deliver(&relay, &envelope("e-1")).await, begun, "kafka-unavailable");
}

#[tokio::test]
async fn a_slow_body_is_answered_before_the_sender_gives_up() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(destination(&kafka.bootstrap_servers(), PRESENCE)).await;
    let whole = delivery(Some(KEY), &envelope("e-1"));
    for sent in [&whole[..whole.len() - 1], &whole[..whole.len() - envelope("e-1").len()]] {
        let begun = Instant::now();
        assert_sent_again(&exchange(relay.address(), sent).await, begun, "body-timeout");
    }
    // A body that comes late, and a Kafka that is silent besides.
    kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    let begun = Instant::now();
    let (head, rest) = whole.split_at(whole.len() - 1);
    let mut stream = tokio::net::TcpStream::connect(relay.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, rest).await.unwrap();
    assert_sent_again(&read_answer(&mut stream).await.unwrap(), begun, "kafka-unavailable");
}

#[tokio::test]
async fn a_missing_topic_table_or_key_is_answered_at_once() {
    let kafka = kafka(&["gen-presence-state"]);
    let brokers = kafka.bootstrap_servers();
    let elsewhere = relay(destination(&brokers, "{'v2.users.{id}.presence': nowhere}")).await;
    let begun = Instant::now();
    assert_sent_again(&deliver(&elsewhere, &envelope("e-1")).await, begun, "kafka-refused");

    let directory = tempfile::tempdir().unwrap();
    let mut settings = destination(&brokers, PRESENCE);
    settings.routing = RoutingSource::File(directory.path().join("routing.yaml"));
    let without_table = relay(settings).await;
    let begun = Instant::now();
    assert_sent_again(&deliver(&without_table, &envelope("e-1")).await, begun, "not-configured");

    let mut settings = destination(&brokers, PRESENCE);
    settings.secrets = SecretSource::Directory(directory.path().join("keys"));
    let without_key = Relay::start(settings).await.unwrap();
    let begun = Instant::now();
    assert_sent_again(&deliver(&without_key, &envelope("e-1")).await, begun, "not-configured");
    assert!(get(&without_key, "/readyz").await.body.contains("no API key: "));
}

#[tokio::test]
async fn too_many_envelopes_in_flight_are_answered_at_once() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = destination(&kafka.bootstrap_servers(), PRESENCE);
    settings.config.limits.max_in_flight = 1;
    let relay = relay(settings).await;
    assert_eq!(deliver(&relay, &envelope("e-0")).await.status, 200);
    kafka.broker_round_trip_time(1, Duration::from_millis(700)).unwrap();
    let held_envelope = envelope("e-1");
    let held = deliver(&relay, &held_envelope);
    let refused = async {
        eventually("one is in flight", || relay.status().in_flight == 1).await;
        let begun = Instant::now();
        assert_sent_again(&deliver(&relay, &envelope("e-2")).await, begun, "overloaded");
    };
    let (held, ()) = tokio::join!(held, refused);
    assert_eq!(held.status, 200);
}

#[tokio::test]
async fn what_cannot_become_a_record_is_final() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(destination(&kafka.bootstrap_servers(), PRESENCE)).await;
    let unrouted = deliver(&relay, &envelope_of("v2.users.{id}.geolocation", "e-1", "{}")).await;
    assert_eq!((unrouted.status, unrouted.problem().as_str()), (404, "unrouted"));
    let transformed = deliver(&relay, &detail("e-2")).await;
    assert_eq!((transformed.status, transformed.problem().as_str()), (400, "event-invalid"));
    assert!(
        transformed.detail().contains("without an input path or transformer"),
        "{}",
        transformed.detail()
    );
}

#[tokio::test]
async fn a_key_rotates_without_a_refusal_and_its_use_is_shown() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("k1", "old"), ("revision", "k1")]);
    let mut settings = destination(&kafka.bootstrap_servers(), PRESENCE);
    settings.secrets = SecretSource::Directory(directory.path().to_owned());
    let relay = relay(settings).await;
    let is_changed = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send_without_pause(relay.address(), Arc::clone(&is_changed)));

    mount(directory.path(), "2", &[("k1", "old"), ("k2", "new"), ("revision", "k1-k2")]);
    eventually("both are active", || relay.status().secrets.active == 2).await;
    assert_eq!(relay.status().secrets.used["k2"], 0);
    eventually("the old one is used", || relay.status().secrets.used["k1"] > 0).await;
    is_changed.store(true, Ordering::Relaxed);
    eventually("the new one is used", || relay.status().secrets.used["k2"] > 0).await;

    std::fs::remove_file(directory.path().join("k1")).unwrap();
    mount(directory.path(), "3", &[("k2", "new"), ("revision", "k2")]);
    eventually("one is active", || relay.status().secrets.active == 1).await;
    eventually("it is used", || relay.status().secrets.used["k2"] > 0).await;
    sender.abort();
    let signatures = relay.status().signatures;
    assert!(signatures.accepted > 0, "{signatures:?}");
    assert_eq!(signatures.refused, 0);
    assert_eq!(exchange(relay.address(), &delivery(Some("old"), &envelope("e"))).await.status, 401);
}

/// Sends with the old key until it is changed, then with the new one.
async fn send_without_pause(address: SocketAddr, is_changed: Arc<AtomicBool>) {
    for number in 0_u64.. {
        let key = if is_changed.load(Ordering::Relaxed) { "new" } else { "old" };
        exchange(address, &delivery(Some(key), &envelope(&number.to_string()))).await;
    }
}

#[tokio::test]
async fn a_presence_has_the_organisations_own_name_for_it() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("presence-definitions.yaml");
    let mut settings = destination(&kafka.bootstrap_servers(), PRESENCE);
    settings.presence_definitions = Some(file.clone());
    let relay = relay(settings).await;
    assert_eq!(deliver(&relay, &envelope("d-1")).await.status, 200);
    std::fs::write(&file, "{d-2: Lunch in the park}").unwrap();
    // Events of one definition, until one is named.
    let until = Instant::now() + PATIENCE;
    for number in 0.. {
        let named = envelope_of("v2.users.{id}.presence", &format!("n-{number}"), &detail("d-2"));
        assert_eq!(deliver(&relay, &named).await.status, 200);
        let brokers = kafka.bootstrap_servers();
        let records =
            tokio::task::spawn_blocking(move || consume(&brokers, "gen-presence-state")).await.unwrap();
        assert!(!records[0].headers.contains_key("presencename"));
        if let Some(name) = records.last().unwrap().headers.get("presencename") {
            assert_eq!(name, "Lunch in the park");
            break;
        }
        assert!(Instant::now() < until, "never: {records:?}");
    }
}
