//! Calls that fail, and brokers that hang and die: every event is in its topic once, and none is a dead letter.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;

use crate::cluster::Cluster;
use crate::proxy::{Fate, Proxy};
use crate::queue::{Count, EMPTY, Queue, envelopes, relay, settings, to_topic};
use crate::support::{eventually, get, metrics_show};

/// Every id that is in the topic, and how often.
async fn times(cluster: &Cluster, topic: &str) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for record in cluster.records(topic).await {
        *times.entry(record.headers["ce_id"].clone()).or_default() += 1;
    }
    times
}

async fn ensure_once(cluster: &Cluster, topic: &str, expected: usize) {
    let times = times(cluster, topic).await;
    assert!(times.len() == expected && times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn what_a_batch_did_not_delete_is_deleted_again() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(1).await);
    let mut fails = 3;
    let proxy = Proxy::start(&queue.endpoint, move |action, _| {
        if action == "DeleteMessageBatch" && fails > 0 {
            fails -= 1;
            return if fails == 1 {
                Fate::Refused(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            } else {
                Fate::Without(vec![0, 2])
            };
        }
        Fate::Passed
    })
    .await;
    let mut source = queue.config();
    source.endpoint_url = Some(proxy.url.clone());
    queue.send(&envelopes("e", 10)).await;
    let relay = relay(settings(source, cluster.plaintext(), &to_topic(&topic))).await;
    queue.becomes_empty().await;
    eventually("all are counted", || relay.status().queue.unwrap().deleted == 10).await;
    assert!(proxy.calls("DeleteMessageBatch") >= 4);
    metrics_show(&relay, &[r#"presenceroute_relay_sqs_errors_total{code="ServiceUnavailable"} 1"#]).await;
    ensure_once(&cluster, &topic, 10).await;
    assert_eq!(queue.dead().await, EMPTY);
}

#[tokio::test]
async fn a_queue_that_cannot_be_read_is_not_ready_and_read_again() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::new().await);
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_broken = std::sync::Arc::clone(&broken);
    let proxy = Proxy::start(&queue.endpoint, move |action, _| {
        if action == "ReceiveMessage" && is_broken.load(std::sync::atomic::Ordering::Relaxed) {
            return Fate::Refused(StatusCode::FORBIDDEN, "AccessDenied");
        }
        Fate::Passed
    })
    .await;
    let mut source = queue.config();
    source.endpoint_url = Some(proxy.url.clone());
    let relay = relay(settings(source, cluster.plaintext(), &to_topic(&topic))).await;
    broken.store(true, std::sync::atomic::Ordering::Relaxed);
    // The receive that waits ends with a message.
    queue.send(&envelopes("a", 1)).await;
    eventually("it is not readable", || !relay.status().queue.unwrap().readable).await;
    let ready = get(&relay, "/readyz").await;
    assert_eq!(ready.status, 503);
    for part in ["the queue cannot be read", "AccessDenied", "AKIDEXAMPLE", "sqs:ReceiveMessage"] {
        assert!(ready.body.contains(part), "{part}: {}", ready.body);
    }
    metrics_show(
        &relay,
        &["presenceroute_relay_sqs_readable 0", r#"sqs_errors_total{code="AccessDenied"} 1"#],
    )
    .await;
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    queue.send(&envelopes("b", 1)).await;
    queue.becomes_empty().await;
    assert_eq!(get(&relay, "/readyz").await.status, 200);
    ensure_once(&cluster, &topic, 2).await;
}

/// A minute without Kafka would be many receives of each message, if they were received.
#[tokio::test]
async fn while_kafka_hangs_nothing_is_received_and_no_event_is_lost() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::with_dead_letters(3).await);
    let relay = relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await;
    queue.send(&envelopes("before", 200)).await;
    queue.becomes_empty().await;
    for broker in 1..=3 {
        surgery.pause(broker).await;
    }
    queue.send(&envelopes("within", 200)).await;
    eventually("Kafka is missed", || !relay.status().kafka.reachable).await;
    // What was received until then is given back, and nothing more is received.
    queue.becomes(Count { visible: 200, hidden: 0 }).await;
    let received = relay.status().queue.unwrap().received;
    // That nothing happens takes time to see: longer than a long poll.
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(relay.status().queue.unwrap().received, received);
    assert_eq!(queue.count().await, Count { visible: 200, hidden: 0 });
    for broker in 1..=3 {
        surgery.resume(broker).await;
    }
    queue.becomes_empty().await;
    queue.send(&envelopes("after", 200)).await;
    queue.becomes_empty().await;
    assert_eq!(queue.dead().await, EMPTY);
    ensure_once(&cluster, &topic, 600).await;
}

#[tokio::test]
async fn events_come_once_when_their_leader_dies() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let (topic, queue) =
        (cluster.topic(3, &[("min.insync.replicas", "2")]).await, Queue::with_dead_letters(3).await);
    let _relay = relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await;
    let leader = cluster.leader(&topic, 0).unwrap();
    let sending = async {
        for number in 0..50 {
            queue.send(&envelopes(&format!("e-{number}"), 10)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let dying = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        surgery.crash(leader).await;
    };
    tokio::join!(sending, dying);
    queue.becomes_empty().await;
    surgery.start(leader).await;
    assert_eq!(queue.dead().await, EMPTY);
    ensure_once(&cluster, &topic, 500).await;
}

/// Brokers answer, and the topic does not acknowledge: one message is tried again and again, longer than it is hidden at a
/// time, and is received once.
#[tokio::test]
async fn a_message_stays_hidden_while_its_delivery_lasts() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(3, &[("min.insync.replicas", "3")]).await;
    let queue = Queue::with_dead_letters(1).await;
    let relay = relay(settings(queue.config(), cluster.plaintext(), &to_topic(&topic))).await;
    surgery.crash(3).await;
    eventually("a replica is missed", || cluster.fewest_in_sync(&topic) < 3).await;
    queue.send(&envelopes("e", 1)).await;
    eventually("it is received", || relay.status().queue.unwrap().received == 1).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(45);
    while tokio::time::Instant::now() < until {
        assert_eq!(queue.count().await, Count { visible: 0, hidden: 1 });
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Others wait in the queue, and are not received.
    queue.send(&envelopes("f", 20)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(queue.count().await, Count { visible: 20, hidden: 1 });
    surgery.start(3).await;
    queue.becomes_empty().await;
    assert_eq!((relay.status().queue.unwrap().received, queue.dead().await), (21, EMPTY));
    ensure_once(&cluster, &topic, 21).await;
}

#[tokio::test]
async fn what_kafka_rejects_comes_back_later_and_holds_up_nothing() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, queue) = (cluster.topic(1, &[]).await, Queue::new().await);
    let missing = format!("{topic}-missing");
    let table = format!(
        "version: 1\nroutes: [{{eventType: 'v2.users.{{id}}.presence', topic: '{topic}', key: subject}}, {{eventType: 'v2.users.{{id}}.routingStatus', topic: '{missing}', key: subject}}]\n"
    );
    let relay = relay(settings(queue.config(), cluster.plaintext(), &table)).await;
    queue.send(&[crate::queue::envelope_of("v2.users.{id}.routingStatus", "r", "u").0]).await;
    queue.send(&envelopes("e", 20)).await;
    queue.becomes(Count { visible: 0, hidden: 1 }).await;
    let returned = r#"presenceroute_relay_sqs_returned_messages_total{reason="kafka-refused"} 1"#;
    metrics_show(&relay, &[returned]).await;
    ensure_once(&cluster, &topic, 20).await;
}
