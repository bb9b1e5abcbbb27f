//! A producer quota that is far below what comes: brokers acknowledge late, and answer nothing else meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::cluster::{Cluster, Quota, settings};
use crate::support::{Answer, SECRET, event, eventually, exchange, get, metrics_show, post, relay, signed};

/// A tenth of what comes.
const QUOTA: u32 = 2_048;
const PAUSE: Duration = Duration::from_millis(50);

/// Longer than it takes the kubelet to remove pods that cannot ask Kafka for its topics.
const LONG: Duration = Duration::from_secs(20);

fn event_of_a_kilobyte(id: &str) -> String {
    event(id).replace("org-1", &"x".repeat(1_000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_relay_stays_ready_and_names_the_quota() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    let quota = Quota::set(&topic, QUOTA).await;
    let mut kafka = cluster.plaintext();
    kafka.properties.insert("client.id".into(), topic.clone());
    let relay = relay(settings(kafka, &topic)).await;

    let (begun, mut posts) = (Instant::now(), JoinSet::new());
    let (mut number, mut reported) = (0, false);
    while begun.elapsed() < LONG {
        let (address, body) = (relay.address(), event_of_a_kilobyte(&number.to_string()));
        posts.spawn(async move { exchange(address, &signed(SECRET, body.as_bytes())).await });
        number += 1;
        let ready = get(&relay, "/readyz").await;
        assert_eq!(ready.status, 200, "after {:?}: {}", begun.elapsed(), ready.body);
        let status = relay.status().kafka;
        assert!(status.reachable, "{status:?}");
        reported |= status.throttled.is_some_and(|cause| cause.contains("exceeds a quota"));
        tokio::time::sleep(PAUSE).await;
    }
    assert!(reported, "/status says that Kafka throttles");
    let answers = posts.join_all().await;
    let mut counts: BTreeMap<_, Vec<&Answer>> = BTreeMap::new();
    for answer in &answers {
        let kind = if answer.status == 200 { "processed".to_owned() } else { answer.problem() };
        counts.entry(kind).or_default().push(answer);
    }
    let shown: Vec<_> = counts.iter().map(|(kind, answers)| (kind, answers.len())).collect();
    println!("{number} events: {shown:?}");
    let throttled = &counts["kafka-throttled"];
    assert_eq!(
        counts.keys().filter(|kind| !["processed", "kafka-throttled"].contains(&kind.as_str())).count(),
        0,
        "{shown:?}"
    );
    for answer in throttled {
        assert!(answer.detail().contains("exceeds a quota"), "{}", answer.detail());
        assert!((1..=60).contains(&answer.headers["retry-after"].parse::<u64>().unwrap()), "{answer:?}");
        assert!(!answer.headers.contains_key("connection"), "another relay is throttled as well: {answer:?}");
    }
    let longest = throttled.iter().map(|answer| answer.headers["retry-after"].parse::<u64>().unwrap()).max();
    println!("the longest Retry-After: {longest:?} s");
    metrics_show(&relay, &["presenceroute_relay_kafka_throttle_seconds_total"]).await;

    quota.lift().await;
    let until = Instant::now() + Duration::from_secs(90);
    while post(&relay, &event("after")).await.status != 200 {
        assert!(Instant::now() < until, "events flow again once the quota is lifted: {:?}", relay.status());
    }
    eventually("all events have been acknowledged", || relay.status().in_flight == 0).await;
    let records = cluster.records(&topic).await;
    assert_eq!(records.len(), number + 1, "each event is there once");
}
