//! Credentials that change while events flow: no request fails, and no event is lost.

use std::fs;
use std::path::Path;
use std::time::Duration;

use presenceroute_core::relay_config::SaslMechanism;
use presenceroute_relay::RunningRelay;

use crate::cluster::{Cluster, harness, settings};
use crate::sender::Flow;
use crate::support::{eventually, get, mount, relay};

/// Has the brokers know a user that may write to the topic; once more, and it has other credentials.
async fn user(name: &str) {
    harness(&["user", name]).await;
}

/// A generation of a mounted Secret.
fn mount_secret(directory: &Path, generation: &str, secret: &Path) {
    let files: Vec<(String, String)> = fs::read_dir(secret)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        // A PKCS #12 archive is not text, and nobody reads it.
        .filter(|path| path.extension().is_none_or(|extension| extension != "p12"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    mount(directory, generation, &files);
}

/// How often the relay's producer was replaced by one with newer credentials.
async fn takeovers(relay: &RunningRelay) -> u64 {
    let metrics = get(relay, "/metrics").await.body;
    let line = r#"presenceroute_relay_producer_rebuilds_total{cause="credentials"} "#;
    metrics.lines().find_map(|found| found.strip_prefix(line)).map_or(0, |count| count.parse().unwrap())
}

async fn becomes(relay: &RunningRelay, expected: u64) {
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while takeovers(relay).await != expected {
        assert!(tokio::time::Instant::now() < until, "no takeover: {:?}", relay.status().kafka);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_changed_password_is_used_without_a_failed_request() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    user("password-changes").await;
    harness(&["allow", "password-changes", &topic, "Describe", "Write"]).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = cluster.scram_secret("password-changes");
    mount_secret(directory.path(), "1", &secret);
    let kafka = cluster.sasl(SaslMechanism::ScramSha512, "password-changes", directory.path());
    let relay = relay(settings(kafka, &topic)).await;

    let flow = Flow::start(relay.address(), 4, Duration::from_millis(5));
    // Brokers may hear of it later than the relay, ...
    mount(directory.path(), "2", &[("password", "not-known-yet")]);
    eventually("the status says what is not in use", || {
        relay.status().kafka.error.is_some_and(|error| {
            error.contains("not in use yet") && error.contains("user \"password-changes\"")
        })
    })
    .await;
    assert_eq!(takeovers(&relay).await, 0);
    // ... or earlier.
    user("password-changes").await;
    mount_secret(directory.path(), "3", &secret);
    becomes(&relay, 1).await;
    eventually("all is well again", || relay.status().kafka.error.is_none()).await;
    let outcome = flow.stop().await;
    assert_eq!(outcome.statuses().keys().collect::<Vec<_>>(), [&200]);
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}

#[tokio::test]
async fn a_new_client_certificate_is_used_without_a_failed_request() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    user("certificate-changes").await;
    harness(&["allow", "certificate-changes", &topic, "Describe", "Write"]).await;
    let directory = tempfile::tempdir().unwrap();
    let secret = cluster.tls_secret("certificate-changes");
    mount_secret(directory.path(), "1", &secret);
    let relay = relay(settings(cluster.mutual_tls(directory.path()), &topic)).await;

    let flow = Flow::start(relay.address(), 4, Duration::from_millis(5));
    for (generation, takeovers) in [("2", 1), ("3", 2)] {
        user("certificate-changes").await;
        mount_secret(directory.path(), generation, &secret);
        becomes(&relay, takeovers).await;
    }
    let outcome = flow.stop().await;
    assert_eq!(outcome.statuses().keys().collect::<Vec<_>>(), [&200]);
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}

#[tokio::test]
async fn a_new_ca_is_used_without_a_failed_request_a_wrong_one_not() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    let ca = fs::read_to_string(cluster.ca_file()).unwrap();
    let other = fs::read_to_string(cluster.wrong_ca_file()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("ca.crt", &ca)]);
    let mut kafka = cluster.tls();
    kafka.tls.as_mut().unwrap().ca_file = Some(directory.path().join("ca.crt"));
    let relay = relay(settings(kafka, &topic)).await;

    let flow = Flow::start(relay.address(), 4, Duration::from_millis(5));
    // As a CA is renewed: the next one comes beside it.
    mount(directory.path(), "2", &[("ca.crt", &format!("{ca}{other}"))]);
    becomes(&relay, 1).await;
    mount(directory.path(), "3", &[("ca.crt", &other)]);
    eventually("the status says what is not in use", || {
        relay.status().kafka.error.is_some_and(|error| {
            error.contains("not in use yet") && error.contains("is not trusted") && error.contains("ca.crt")
        })
    })
    .await;
    assert_eq!(takeovers(&relay).await, 1);
    mount(directory.path(), "4", &[("ca.crt", &ca)]);
    becomes(&relay, 2).await;
    eventually("all is well again", || relay.status().kafka.error.is_none()).await;
    let outcome = flow.stop().await;
    assert_eq!(outcome.statuses().keys().collect::<Vec<_>>(), [&200]);
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}
