//! Brokers that hang and die under load: what was answered 200 is there, in each agent's order, and once.

use std::collections::BTreeMap;
use std::time::Duration;

use presenceroute_core::receipt::PREFERENCE;
use presenceroute_core::relay_config::KafkaConfig;
use presenceroute_core::relay_config::SaslMechanism;
use presenceroute_relay::RunningRelay;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Surgery, USER, settings};
use crate::sender::{Flow, Outcome};
use crate::support::{
    Answer, PATH, SECRET, event, eventually, exchange, metrics_show, post, relay, request, sign, signed,
};

const AGENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// Longer than the sender waits and the brokers need to elect a leader.
const HANG: Duration = Duration::from_secs(10);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets events flow before, while and after brokers are hurt.
async fn flow_through(relay: &RunningRelay, hurt: impl Future<Output = ()>) -> Outcome {
    let flow = Flow::start(relay.address(), AGENTS, PAUSE);
    tokio::time::sleep(seconds(1)).await;
    hurt.await;
    tokio::time::sleep(seconds(1)).await;
    let outcome = flow.stop().await;
    println!("answers: {:?}", outcome.statuses());
    outcome
}

async fn relay_to(cluster: &Cluster, topic: &str) -> RunningRelay {
    relay(settings(cluster.plaintext(), topic)).await
}

async fn hang(surgery: &mut Surgery, broker: i32) {
    surgery.pause(broker).await;
    tokio::time::sleep(HANG).await;
    surgery.resume(broker).await;
}

#[tokio::test]
async fn events_keep_their_order_when_their_leader_is_killed() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(3, &[("min.insync.replicas", "2")]).await;
    let relay = relay_to(&cluster, &topic).await;
    let leader = cluster.leader(&topic, 0).unwrap();
    let outcome = flow_through(&relay, async {
        surgery.crash(leader).await;
        eventually("another broker leads", || cluster.leader(&topic, 0).is_some_and(|now| now != leader))
            .await;
    })
    .await;
    surgery.start(leader).await;
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}

#[tokio::test]
async fn events_keep_their_order_when_their_leader_hangs() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(3, &[("min.insync.replicas", "2")]).await;
    let relay = relay_to(&cluster, &topic).await;
    let leader = cluster.leader(&topic, 0).unwrap();
    let outcome = flow_through(&relay, hang(&mut surgery, leader)).await;
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}

#[tokio::test]
async fn events_come_once_when_their_only_broker_hangs() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(1, &[]).await;
    let relay = relay_to(&cluster, &topic).await;
    let leader = cluster.leader(&topic, 0).unwrap();
    let outcome = flow_through(&relay, hang(&mut surgery, leader)).await;
    assert!(outcome.statuses().contains_key(&503), "the hang was felt: {:?}", outcome.statuses());
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}

#[tokio::test]
async fn events_come_once_when_their_only_broker_dies_and_returns() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(1, &[]).await;
    let relay = relay_to(&cluster, &topic).await;
    let leader = cluster.leader(&topic, 0).unwrap();
    let outcome = flow_through(&relay, async {
        surgery.crash(leader).await;
        tokio::time::sleep(seconds(5)).await;
        surgery.start(leader).await;
        eventually("it leads again", || cluster.leader(&topic, 0) == Some(leader)).await;
    })
    .await;
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}

/// An event of one agent, whose source has so many bytes.
fn event_of_size(id: &str, bytes: usize) -> String {
    event(id).replace(&format!("u-{id}"), "u").replace("org-1", &"x".repeat(bytes))
}

/// What is sent while the broker hangs, and what it was answered: events of 1 KB, and of `large` bytes those that
/// `is_large` names. The first few requests go into the broker's socket; the rest gathers, and goes in one.
async fn answers_after_a_hang(
    relay: &RunningRelay,
    surgery: &mut Surgery,
    leader: i32,
    is_large: impl Fn(usize) -> bool,
) -> Vec<(String, Answer)> {
    surgery.pause(leader).await;
    let mut posts = JoinSet::new();
    for number in 0..60 {
        let id = number.to_string();
        let body = event_of_size(&id, if is_large(number) { 20_000 } else { 1_000 });
        let (address, request) = (relay.address(), signed(SECRET, body.as_bytes()));
        posts.spawn(async move { (id, exchange(address, &request).await) });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    surgery.resume(leader).await;
    posts.join_all().await
}

/// A topic whose largest request is of 10 KB, a relay, and the leader of the partition that its events go to.
async fn topic_of_small_requests(cluster: &Cluster, kafka: KafkaConfig) -> (String, RunningRelay, i32) {
    let topic = cluster.topic(1, &[("max.message.bytes", "10000")]).await;
    let relay = relay(settings(kafka, &topic)).await;
    let body = event_of_size("before", 1_000);
    let headers = [("X-Genesys-Event-Signature", &*sign(SECRET, body.as_bytes())), ("Prefer", PREFERENCE)];
    let answer = exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let partition = answer.json()["records"][0]["partition"].as_u64().unwrap();
    let leader = cluster.leader(&topic, usize::try_from(partition).unwrap()).unwrap();
    (topic, relay, leader)
}

/// How often each id is in a topic.
async fn times_in(cluster: &Cluster, topic: &str) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for record in cluster.records(topic).await {
        *times.entry(record.headers["ce_id"].clone()).or_default() += 1;
    }
    times
}

#[tokio::test]
async fn events_of_a_batch_too_large_for_their_topic_come_once() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let (topic, relay, leader) = topic_of_small_requests(&cluster, cluster.plaintext()).await;
    let answers = answers_after_a_hang(&relay, &mut surgery, leader, |_| false).await;
    assert!(answers.iter().all(|(_, answer)| answer.status == 200), "{answers:?}");
    // Without any refusal, nothing would have been shown.
    let refused =
        format!(r#"presenceroute_relay_kafka_errors_total{{topic="{topic}",kind="MessageSizeTooLarge"}}"#);
    metrics_show(&relay, &[&refused]).await;
    let times = times_in(&cluster, &topic).await;
    assert!(times.len() == 61 && times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn an_event_too_large_alone_is_rejected_and_its_batch_is_not() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    // What sends them again must be let in, too.
    let kafka = cluster.sasl(SaslMechanism::ScramSha512, USER, &cluster.scram_secret(USER));
    let (topic, relay, leader) = topic_of_small_requests(&cluster, kafka).await;
    let answers = answers_after_a_hang(&relay, &mut surgery, leader, |number| number == 30).await;
    for (id, answer) in &answers {
        if id == "30" {
            assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"), "{}", answer.body);
            assert!(answer.detail().contains("record of this size"), "{}", answer.detail());
        } else {
            assert_eq!(answer.status, 200, "{id}: {}", answer.body);
        }
    }
    let times = times_in(&cluster, &topic).await;
    assert!(times.len() == 60 && times.values().all(|times| *times == 1), "{times:?}");
    assert!(!times.contains_key("30"));
}

#[tokio::test]
async fn too_few_in_sync_replicas_are_503_with_retry_after() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(3, &[("min.insync.replicas", "3")]).await;
    let relay = relay_to(&cluster, &topic).await;
    assert_eq!(post(&relay, &event("before")).await.status, 200);
    surgery.crash(1).await;
    eventually("the brokers miss it", || cluster.fewest_in_sync(&topic) == 2).await;
    let answer = post(&relay, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-unavailable"), "{}", answer.body);
    assert_eq!(answer.headers["retry-after"], "1");
    assert!(answer.detail().contains(&topic), "{}", answer.detail());
    surgery.start(1).await;
    eventually("it is in sync again", || cluster.fewest_in_sync(&topic) == 3).await;
    eventually("Kafka has acknowledged it", || relay.status().in_flight == 0).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    let records = cluster.records(&topic).await;
    assert_eq!(records.len(), 2, "the repetition joined the first one: {records:?}");
}

/// The broker misses what it has acknowledged, and refuses what comes next as out of order: the library gives up for
/// good.
#[tokio::test]
async fn a_producer_whose_broker_lost_its_records_is_replaced() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(1, &[]).await;
    let relay = relay_to(&cluster, &topic).await;
    // Of one agent, so in one partition; one after another, so each in a batch of its own.
    let post = async |id: &str| {
        let body = event(id).replace(&format!("u-{id}"), "u");
        let headers =
            [("X-Genesys-Event-Signature", &*sign(SECRET, body.as_bytes())), ("Prefer", PREFERENCE)];
        let answer = exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["records"][0]["partition"].as_u64().unwrap()
    };
    let partition = usize::try_from(post("1").await).unwrap();
    post("2").await;
    post("3").await;
    let leader = cluster.leader(&topic, partition).unwrap();
    surgery.crash(leader).await;
    surgery.lose(leader, &topic).await;
    surgery.start(leader).await;
    eventually("it leads again", || cluster.leader(&topic, partition) == Some(leader)).await;
    post("4").await;
    metrics_show(&relay, &[r#"presenceroute_relay_producer_rebuilds_total{cause="fatal"} 1"#]).await;
    post("5").await;
    let ids: Vec<_> =
        cluster.records(&topic).await.iter().map(|record| record.headers["ce_id"].clone()).collect();
    assert_eq!(ids, ["1", "2", "4", "5"], "the disk has lost the third, and nobody else anything");
}
