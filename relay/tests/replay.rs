//! `replay`: dead letters are sent again by the present table, once, and none is lost when Kafka fails.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use presenceroute_core::routing::RoutingTable;
use presenceroute_relay::RoutingSource;
use presenceroute_relay::replay::{self, ReplayError, Summary};
use presenceroute_relay::settings::ReplayArguments;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use support::{event_of, records};
use tokio_util::sync::CancellationToken;

const DEAD: &str = "dead-letters";
/// The table with which the events became dead letters.
const BEFORE: &str = "{version: 1, routes: [{eventType: known, topic: known}], \
                      unmatched: {action: DeadLetter, topic: dead-letters}}";
/// The table that was mended.
const AFTER: &str = "{version: 1, routes: [{eventType: one, topic: one}, \
                     {eventType: two, topic: two, when: 'attributes.presence == \"AWAY\"'}], \
                     unmatched: {action: DeadLetter, topic: dead-letters}}";

type Kafka = MockCluster<'static, DefaultProducerContext>;

/// A broker whose dead-letter topic has these events, by a relay with the old table.
async fn with_dead_letters(events: &[(&str, &str)]) -> Kafka {
    let kafka = support::kafka(&["known", "one", "two", DEAD]);
    let relay = support::relay(support::settings(&kafka.bootstrap_servers(), BEFORE)).await;
    for (event_type, id) in events {
        assert_eq!(support::post(&relay, &event_of(event_type, id)).await.status, 200);
    }
    relay.shutdown().await;
    kafka
}

fn arguments() -> ReplayArguments {
    ReplayArguments { topic: DEAD.into(), ..ReplayArguments::default() }
}

/// A replay by this table. Returns what it printed, too.
async fn replay(
    kafka: &Kafka,
    table: &str,
    arguments: &ReplayArguments,
) -> (Result<Summary, ReplayError>, String) {
    let mut settings = support::settings(&kafka.bootstrap_servers(), table);
    settings.routing = RoutingSource::Fixed(RoutingTable::parse(table).unwrap());
    settings.config.route = Some("presence/desk".into());
    let mut printed = String::new();
    let result = replay::run(settings, arguments, CancellationToken::new(), |line| {
        printed.push_str(line);
        printed.push('\n');
    })
    .await;
    (result, printed)
}

/// Writes a record that no relay has made.
async fn produce(brokers: &str, topic: &str, headers: &[(&str, &str)], value: &[u8]) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(*value) })
    });
    let record: FutureRecord<'_, (), [u8]> = FutureRecord::to(topic).payload(value).headers(headers);
    producer.send(record, support::PATIENCE).await.unwrap();
}

fn ids(records: &[support::Consumed]) -> Vec<&str> {
    records.iter().map(|record| record.headers["ce_id"].as_str()).collect()
}

#[tokio::test]
async fn dead_letters_are_sent_by_the_present_table_and_once() {
    let kafka = with_dead_letters(&[("one", "1"), ("two", "2"), ("three", "3"), ("one", "4")]).await;
    let brokers = kafka.bootstrap_servers();
    let (summary, printed) = replay(&kafka, AFTER, &arguments()).await;
    let expected = Summary {
        read: 4,
        published: 2,
        topics: [("one".to_owned(), 2), (DEAD.to_owned(), 1)].into(),
        filtered: 1,
        dead_lettered: 1,
        ..Summary::default()
    };
    assert_eq!(summary.unwrap(), expected);
    assert!(printed.contains("group presenceroute-replay.presence.desk\n"), "{printed}");
    assert!(
        printed
            .ends_with("4 read, 2 published, 1 filtered, 1 dead-lettered again; dead-letters: 1; one: 2\n"),
        "{printed}"
    );
    let one = records(&brokers, "one", 2).await;
    assert_eq!(ids(&one), ["1", "4"]);
    assert_eq!(one[0].value, event_of("one", "1"));
    // The event that still matches no route is a dead letter of the present table, and is all that is left to read.
    assert_eq!(ids(&records(&brokers, DEAD, 5).await), ["1", "2", "3", "4", "3"]);
    let (summary, _) = replay(&kafka, AFTER, &arguments()).await;
    assert_eq!(summary.unwrap().read, 1);
    assert_eq!(records(&brokers, "one", 2).await, one);
}

#[tokio::test]
async fn a_dry_run_says_where_events_would_go_and_changes_nothing() {
    let kafka = with_dead_letters(&[("one", "1"), ("two", "2"), ("three", "3")]).await;
    let dry_run = ReplayArguments { dry_run: true, ..arguments() };
    for _ in 0..2 {
        let (summary, printed) = replay(&kafka, AFTER, &dry_run).await;
        assert!(printed.contains("dry run: nothing is published"), "{printed}");
        let summary = summary.unwrap();
        assert_eq!((summary.read, summary.published, summary.dead_lettered), (3, 1, 1));
    }
    let brokers = kafka.bootstrap_servers();
    records(&brokers, "one", 0).await;
    records(&brokers, DEAD, 3).await;
}

#[tokio::test]
async fn a_condition_selects_events_and_has_its_own_progress() {
    let kafka = with_dead_letters(&[("one", "1"), ("one", "2")]).await;
    let brokers = kafka.bootstrap_servers();
    let only = ReplayArguments { condition: Some(r#"id == "2""#.into()), ..arguments() };
    let (summary, printed) = replay(&kafka, AFTER, &only).await;
    let summary = summary.unwrap();
    assert_eq!((summary.read, summary.published, summary.left_out), (2, 1, 1), "{printed}");
    assert_eq!(ids(&records(&brokers, "one", 1).await), ["2"]);
    assert_eq!(replay(&kafka, AFTER, &only).await.0.unwrap().read, 0);
    assert_eq!(replay(&kafka, AFTER, &arguments()).await.0.unwrap().read, 2);
    let again = ReplayArguments { from_beginning: true, ..arguments() };
    assert_eq!(replay(&kafka, AFTER, &again).await.0.unwrap().read, 2);
}

#[tokio::test]
async fn a_rejected_event_stops_the_replay_after_what_was_stored() {
    let kafka = with_dead_letters(&[("one", "1"), ("two", "2"), ("one", "3")]).await;
    let brokers = kafka.bootstrap_servers();
    // No broker has the topic that the second goes to.
    let broken = AFTER.replace("topic: two, when: 'attributes.presence == \"AWAY\"'", "topic: absent");
    let (result, _) = replay(&kafka, &broken, &arguments()).await;
    let refusal = result.unwrap_err().to_string();
    for part in ["partition 0, offset 1 of \"dead-letters\"", "absent", "run the command again"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    let mended = broken.replace("absent", "two");
    let (summary, _) = replay(&kafka, &mended, &arguments()).await;
    // The first is not sent again.
    assert_eq!(summary.unwrap().read, 2);
    assert_eq!(ids(&records(&brokers, "two", 1).await), ["2"]);
}

#[tokio::test]
async fn an_event_is_tried_again_until_kafka_acknowledges_it() {
    let kafka = with_dead_letters(&[("one", "1")]).await;
    let leader_gone = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 3];
    kafka.request_errors(RDKafkaApiKey::Produce, &leader_gone);
    let (summary, _) = replay(&kafka, AFTER, &arguments()).await;
    assert_eq!(summary.unwrap().published, 1);
    records(&kafka.bootstrap_servers(), "one", 1).await;
}

#[tokio::test]
async fn what_a_replay_cannot_do_is_refused_with_a_remedy() {
    let kafka = with_dead_letters(&[("one", "1")]).await;
    for (table, arguments, words) in [
        (AFTER, ReplayArguments { topic: "one".into(), ..arguments() }, "name a dead-letter topic"),
        (AFTER, ReplayArguments { topic: "no-such-topic".into(), ..arguments() }, "does not exist"),
        (AFTER, ReplayArguments { condition: Some("presence ==".into()), ..arguments() }, "--where: "),
        (AFTER, ReplayArguments { condition: Some("user == '1'".into()), ..arguments() }, "`user`"),
    ] {
        let refusal = replay(&kafka, table, &arguments).await.0.unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
    }
    records(&kafka.bootstrap_servers(), "one", 0).await;
}

/// The events of a sender that writes CloudEvents in one piece, and what is no event.
#[tokio::test]
async fn structured_events_are_unwrapped_and_others_are_counted() {
    let kafka = support::kafka(&["known", "one", "two", DEAD]);
    let brokers = kafka.bootstrap_servers();
    let whole = format!(r#"{{"specversion": "1.0", "data": {}}}"#, event_of("one", "1"));
    produce(&brokers, DEAD, &[("content-type", "application/cloudevents+json")], whole.as_bytes()).await;
    produce(&brokers, DEAD, &[], b"no event").await;
    produce(&brokers, DEAD, &[("content-type", "application/cloudevents+json")], b"[]").await;
    let (summary, _) = replay(&kafka, AFTER, &arguments()).await;
    let summary = summary.unwrap();
    assert_eq!((summary.read, summary.published, summary.unreadable), (3, 1, 2));
    assert_eq!(records(&brokers, "one", 1).await[0].value, event_of("one", "1"));
}

/// Its id and its type are in the record's headers, or in the CloudEvent around it, and nowhere in its value.
#[tokio::test]
async fn a_dead_letter_of_a_notification_is_sent_again_as_the_same_event() {
    let kafka = support::kafka(&["one", DEAD]);
    let brokers = kafka.bootstrap_servers();
    let detail =
        r#"{"topicName":"v2.users.u-1.presence","eventBody":{"modifiedDate":"2026-03-19T22:04:47.904Z"}}"#;
    let event_type = "v2.users.{id}.presence";
    let headers = [
        ("ce_id", "e-1"),
        ("ce_type", event_type),
        ("ce_source", "aws.partner/x"),
        ("presencename", "Lunch"),
    ];
    produce(&brokers, DEAD, &headers, detail.as_bytes()).await;
    let structured = format!(
        r#"{{"specversion":"1.0","id":"e-2","source":"aws.partner/x","type":"{event_type}","data":{detail}}}"#
    );
    let content_type = [("content-type", "application/cloudevents+json; charset=UTF-8")];
    produce(&brokers, DEAD, &content_type, structured.as_bytes()).await;
    produce(&brokers, DEAD, &[], detail.as_bytes()).await;
    let table = "{version: 1, routes: [{eventType: v2.users.*, topic: one, key: subject}]}";
    let (summary, _) = replay(&kafka, table, &arguments()).await;
    let topics = [("one".to_owned(), 2)].into();
    assert_eq!(
        summary.unwrap(),
        Summary { read: 3, published: 2, topics, unreadable: 1, ..Summary::default() }
    );
    let one = records(&brokers, "one", 2).await;
    assert_eq!(ids(&one), ["e-1", "e-2"]);
    assert_eq!(one[0].headers["presencename"], "Lunch");
    for record in one {
        assert_eq!((record.key.as_str(), record.value.as_str()), ("u-1", detail));
        assert_eq!(record.headers["ce_type"], event_type);
        assert_eq!(record.headers["ce_subject"], "u-1");
        assert_eq!(record.headers["ce_time"], "2026-03-19T22:04:47.904Z");
        assert_eq!(record.headers["ce_source"], "aws.partner/x");
    }
}
