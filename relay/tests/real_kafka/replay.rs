//! Dead letters sent again: with the relay's credentials, and while brokers die.

use std::collections::BTreeSet;

use presenceroute_core::relay_config::{KafkaConfig, SaslMechanism};
use presenceroute_core::routing::RoutingTable;
use presenceroute_relay::replay::{self, ReplayError, Summary};
use presenceroute_relay::settings::ReplayArguments;
use presenceroute_relay::{RoutingSource, Settings};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, USER, harness, settings};
use crate::oauth::TokenEndpoint;
use crate::support::{event, post, relay};

const EVENTS: usize = 300;

/// Fills a topic with events, by a relay to which they are unmatched.
async fn dead_letters(cluster: &Cluster, replicas: i32) -> String {
    let dead = cluster.topic(replicas, &[]).await;
    let table = format!(
        "{{version: 1, routes: [{{eventType: other, topic: {dead}}}], unmatched: {{action: DeadLetter, topic: {dead}}}}}"
    );
    let relay = relay(with_table(cluster.plaintext(), &table)).await;
    let sent = (0..EVENTS).map(|number| post_event(&relay, number));
    futures::future::join_all(sent).await;
    relay.shutdown().await;
    dead
}

async fn post_event(relay: &presenceroute_relay::RunningRelay, number: usize) {
    let answer = post(relay, &event(&number.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn with_table(kafka: KafkaConfig, table: &str) -> Settings {
    let mut settings = settings(kafka, "unused");
    settings.routing = RoutingSource::Fixed(RoutingTable::parse(table).unwrap());
    settings
}

async fn replay(kafka: KafkaConfig, dead: &str, target: &str) -> Result<Summary, ReplayError> {
    let arguments = ReplayArguments { topic: dead.to_owned(), ..ReplayArguments::default() };
    replay::run(settings(kafka, target), &arguments, CancellationToken::new(), |_| {}).await
}

/// All events are in the topic, each once.
async fn has_each_once(cluster: &Cluster, topic: &str) {
    let records = cluster.records(topic).await;
    let ids: BTreeSet<_> = records.iter().map(|record| record.headers["ce_id"].clone()).collect();
    assert_eq!((records.len(), ids.len()), (EVENTS, EVENTS));
}

async fn are_sent_once_with(cluster: &Cluster, kafka: impl Fn() -> KafkaConfig) {
    let (dead, target) = (dead_letters(cluster, 1).await, cluster.topic(1, &[]).await);
    let summary = replay(kafka(), &dead, &target).await.unwrap();
    assert_eq!((summary.read, summary.published), (EVENTS as u64, EVENTS as u64));
    has_each_once(cluster, &target).await;
    assert_eq!(replay(kafka(), &dead, &target).await.unwrap().read, 0);
}

#[tokio::test]
async fn dead_letters_are_sent_again_with_scram_over_tls() {
    let (cluster, _whole) = Cluster::whole().await;
    let secret = cluster.scram_secret(USER);
    are_sent_once_with(&cluster, || cluster.sasl(SaslMechanism::ScramSha512, USER, &secret)).await;
}

#[tokio::test]
async fn dead_letters_are_sent_again_with_a_client_certificate() {
    let (cluster, _whole) = Cluster::whole().await;
    let secret = cluster.tls_secret(USER);
    are_sent_once_with(&cluster, || cluster.mutual_tls(&secret)).await;
}

#[tokio::test]
async fn dead_letters_are_sent_again_with_tokens() {
    let (cluster, _whole) = Cluster::whole().await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = TokenEndpoint::start(USER, 300).await;
    let with_extensions = || endpoint.kafka(&cluster, directory.path());
    let refusal = replay(with_extensions(), "dead", "target").await.unwrap_err().to_string();
    assert!(refusal.contains("kafka.sasl.oauth.extensions"), "{refusal}");
    let without = || {
        let mut kafka = with_extensions();
        kafka.sasl.as_mut().unwrap().oauth.as_mut().unwrap().extensions.clear();
        kafka
    };
    are_sent_once_with(&cluster, without).await;
}

#[tokio::test]
async fn a_user_who_may_not_read_the_topic_is_told_what_to_grant() {
    let (cluster, _whole) = Cluster::whole().await;
    let (dead, target) = (dead_letters(&cluster, 1).await, cluster.topic(1, &[]).await);
    harness(&["user", "replayer"]).await;
    harness(&["allow", "replayer", &dead, "Describe"]).await;
    harness(&["allow", "replayer", &target, "Describe", "Write"]).await;
    let secret = cluster.scram_secret("replayer");
    let kafka = cluster.sasl(SaslMechanism::ScramSha512, "replayer", &secret);
    let refusal = replay(kafka, &dead, &target).await.unwrap_err().to_string();
    assert!(
        refusal.contains(&dead) && refusal.contains("needs Read on the topic and on the group"),
        "{refusal}"
    );
    assert!(cluster.records(&target).await.is_empty());
}

#[tokio::test]
async fn rejected_credentials_end_a_replay_and_are_named() {
    let (cluster, _whole) = Cluster::whole().await;
    let (dead, target) = (cluster.topic(1, &[]).await, cluster.topic(1, &[]).await);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("password"), "wrong").unwrap();
    let kafka = cluster.sasl(SaslMechanism::ScramSha512, USER, directory.path());
    let refusal = replay(kafka, &dead, &target).await.unwrap_err().to_string();
    assert!(refusal.to_lowercase().contains("authentication") && !refusal.contains("wrong"), "{refusal}");
}

/// The leader of a part of both topics dies in the middle; the replay goes on with the others.
#[tokio::test]
async fn a_replay_goes_on_when_a_broker_dies() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let (dead, target) = (dead_letters(&cluster, 3).await, cluster.topic(3, &[]).await);
    let victim = cluster.leader(&target, 0).unwrap();
    let kafka = cluster.plaintext();
    let (of_dead, of_target) = (dead.clone(), target.clone());
    let replaying = tokio::spawn(async move { replay(kafka, &of_dead, &of_target).await });
    surgery.crash(victim).await;
    let summary = replaying.await.unwrap().unwrap();
    assert_eq!(summary.read, EVENTS as u64);
    surgery.start(victim).await;
    has_each_once(&cluster, &target).await;
}
