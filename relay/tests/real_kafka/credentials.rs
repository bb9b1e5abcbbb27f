//! Every way into Kafka, with the files of Strimzi's Secrets as they are.

use presenceroute_core::relay_config::KafkaConfig;
use presenceroute_core::relay_config::SaslMechanism;

use crate::cluster::{Cluster, USER, settings};
use crate::support::{event, post, relay};

async fn an_event_arrives(cluster: &Cluster, kafka: KafkaConfig) {
    let topic = cluster.topic(1, &[]).await;
    let relay = relay(settings(kafka, &topic)).await;
    let answer = post(&relay, &event("1")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let records = cluster.records(&topic).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].value, event("1"));
    relay.shutdown().await;
}

#[tokio::test]
async fn an_event_arrives_over_tls() {
    let (cluster, _whole) = Cluster::whole().await;
    an_event_arrives(&cluster, cluster.tls()).await;
}

#[tokio::test]
async fn an_event_arrives_over_mutual_tls_with_a_kafkausers_files() {
    let (cluster, _whole) = Cluster::whole().await;
    an_event_arrives(&cluster, cluster.mutual_tls(&cluster.tls_secret(USER))).await;
}

async fn an_event_arrives_by(mechanism: SaslMechanism) {
    let (cluster, _whole) = Cluster::whole().await;
    an_event_arrives(&cluster, cluster.sasl(mechanism, USER, &cluster.scram_secret(USER))).await;
}

#[tokio::test]
async fn an_event_arrives_by_plain() {
    an_event_arrives_by(SaslMechanism::Plain).await;
}

#[tokio::test]
async fn an_event_arrives_by_scram_sha_256() {
    an_event_arrives_by(SaslMechanism::ScramSha256).await;
}

#[tokio::test]
async fn an_event_arrives_by_scram_sha_512_with_a_kafkausers_files() {
    an_event_arrives_by(SaslMechanism::ScramSha512).await;
}
