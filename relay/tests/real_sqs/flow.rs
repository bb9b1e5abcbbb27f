//! Events that flow: each becomes one record, and its message is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use presenceroute_core::relay_config::Limits;
use tokio::net::TcpStream;

use crate::cluster::Cluster;
use crate::queue::{EMPTY, Queue, TYPE, envelope, envelope_of, envelopes, relay, settings, to_topic};
use crate::support::{eventually, get, metrics_show};

#[tokio::test]
async fn an_envelope_is_a_record_with_its_details_bytes() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(2).await);
    let relay = relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await;
    let (sent, detail) = envelope("e-1", "u-1");
    queue.send(&[sent]).await;
    queue.becomes_empty().await;
    let records = cluster.records(&topic).await;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].key.as_str(), &records[0].value), ("u-1", &detail));
    for (header, value) in [
        ("ce_id", "e-1"),
        ("ce_type", TYPE),
        ("ce_source", "aws.partner/genesys.com/cloud/org-1/presence"),
        ("ce_subject", "u-1"),
        ("ce_time", "2026-03-19T22:04:48.128Z"),
    ] {
        assert_eq!(records[0].headers[header], value, "{header}");
    }
    assert_eq!(queue.dead().await, EMPTY);
    let status = relay.status().queue.unwrap();
    assert_eq!((status.received, status.deleted, status.returned), (1, 1, 0));
    metrics_show(
        &relay,
        &[
            "presenceroute_relay_sqs_received_messages_total 1",
            "presenceroute_relay_sqs_deleted_messages_total 1",
            "presenceroute_relay_sqs_held_messages 0",
            "presenceroute_relay_sqs_readable 1",
            "presenceroute_relay_sqs_delay_seconds_count 1",
            r#"presenceroute_relay_requests_total{code="200",reason="processed"} 1"#,
        ],
    )
    .await;
}

#[tokio::test]
async fn a_queue_has_no_event_port() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::new().await);
    let mut settings = settings(queue.config(), cluster.plaintext(), &to_topic(&topic));
    // A port that is free now, and would be taken.
    settings.listen.set_port({
        let free = std::net::TcpListener::bind(settings.listen).unwrap();
        free.local_addr().unwrap().port()
    });
    let listen = settings.listen;
    let relay = relay(settings).await;
    assert_eq!(get(&relay, "/readyz").await.status, 200);
    assert!(TcpStream::connect(listen).await.is_err());
}

#[tokio::test]
async fn two_relays_share_a_queue_and_each_event_comes_once() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(2).await);
    let mut relays = Vec::new();
    for _ in 0..2 {
        relays.push(relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await);
    }
    let sent = envelopes("e", 2_000);
    queue.send(&sent).await;
    queue.becomes_empty().await;
    let mut times = BTreeMap::new();
    for record in cluster.records(&topic).await {
        *times.entry(record.headers["ce_id"].clone()).or_insert(0) += 1;
    }
    assert!(times.len() == sent.len() && times.values().all(|times| *times == 1), "{times:?}");
    assert_eq!(queue.dead().await, EMPTY);
    let received: Vec<_> = relays.iter().map(|relay| relay.status().queue.unwrap().received).collect();
    assert!(
        received.iter().sum::<u64>() == sent.len() as u64 && received.iter().all(|n| *n > 0),
        "{received:?}"
    );
}

/// With room for few messages and few bytes, more are worked off than there is room for.
#[tokio::test]
async fn no_more_messages_are_held_than_the_limits_allow() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(2).await);
    let mut settings = settings(queue.config(), cluster.plaintext(), &to_topic(&topic));
    settings.config.limits = Limits {
        max_in_flight: 7,
        max_in_flight_bytes: 1 << 20,
        max_body_bytes: 256 << 10,
        drain_ms: 0,
        ..Limits::default()
    };
    let large = |number: usize| {
        let (envelope, _) = envelope(&format!("e-{number}"), "u-1");
        envelope.replace("PURECLOUD", &"x".repeat(100_000))
    };
    let sent: Vec<_> = (0..60).map(large).collect();
    for one in &sent {
        queue.send(std::slice::from_ref(one)).await;
    }
    let relay = relay(settings).await;
    let mut most = 0;
    eventually("everything is deleted", || {
        let status = relay.status().queue.unwrap();
        most = most.max(status.received - status.deleted - status.returned);
        status.deleted == 60
    })
    .await;
    assert!((1..=7).contains(&most), "{most}");
    assert_eq!(cluster.records(&topic).await.len(), 60);
}

#[tokio::test]
async fn what_no_route_names_is_dropped_and_counted() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(2).await);
    let relay = relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await;
    queue.send(&[envelope_of("v2.users.{id}.geolocation", "e-1", "u-1").0]).await;
    queue.becomes_empty().await;
    assert_eq!((queue.dead().await, relay.status().queue.unwrap().deleted), (EMPTY, 1));
    metrics_show(&relay, &[r#"presenceroute_relay_requests_total{code="200",reason="dropped"} 1"#]).await;
    assert!(cluster.records(&topic).await.is_empty());
}

#[tokio::test]
async fn what_is_no_event_goes_to_its_topic_and_is_deleted() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, dead, queue) =
        (cluster.topic(1, &[]).await, cluster.topic(1, &[]).await, Queue::with_dead_letters(1).await);
    let table = format!("{}unmatched: {{action: Drop, invalid: {{topic: '{dead}'}}}}\n", to_topic(&topic));
    let _relay = relay(settings(queue.config(), cluster.plaintext(), &table)).await;
    queue.send(&["not json".into(), envelope("e-1", "u-1").0]).await;
    queue.becomes_empty().await;
    let records = cluster.records(&dead).await;
    assert_eq!((records.len(), records[0].value.as_str()), (1, "not json"));
    assert_eq!(records[0].headers["presenceroute_reason"], "event-invalid");
    assert!(!records[0].headers["presenceroute_detail"].is_empty());
    assert_eq!((cluster.records(&topic).await.len(), queue.dead().await), (1, EMPTY));
}

#[tokio::test]
async fn what_is_no_event_is_left_to_the_redrive_without_a_topic() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(1).await);
    let relay = relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await;
    queue.send(&["not json".into()]).await;
    eventually("it is given back", || relay.status().queue.unwrap().returned == 1).await;
    let returned = r#"presenceroute_relay_sqs_returned_messages_total{reason="event-invalid"} 1"#;
    metrics_show(&relay, &[returned]).await;
    // Not at once, but when its time is over.
    assert_eq!(queue.count().await.hidden, 1);
    queue.becomes_empty().await;
    assert_eq!(queue.dead().await.visible, 1);
}

#[tokio::test]
async fn a_relay_that_ends_leaves_every_message_done_or_visible() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(3).await);
    let sent = envelopes("e", 3_000);
    queue.send(&sent).await;
    let mut settings = settings(queue.config(), cluster.plaintext(), &to_topic(&topic));
    settings.config.limits.drain_ms = Limits::default().drain_ms;
    let relay = relay(settings).await;
    eventually("a part is done", || relay.status().queue.unwrap().deleted > 100).await;
    tokio::time::timeout(Duration::from_secs(20), relay.shutdown()).await.expect("in time");
    let count = queue.count().await;
    let published = cluster.records(&topic).await.len() as u64;
    assert_eq!((count.hidden, count.visible + published), (0, sent.len() as u64), "{count:?}");
    assert!(count.visible > 0, "nothing was left to be given back");
}
