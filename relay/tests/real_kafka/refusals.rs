//! What Kafka does not let through is named: what, whose, and what to do, in time for whoever is on call.

use std::path::Path;
use std::time::{Duration, Instant};

use presenceroute_core::relay_config::KafkaConfig;
use presenceroute_core::relay_config::SaslMechanism;
use presenceroute_relay::Relay;

use crate::cluster::{Cluster, USER, harness, settings, within};
use crate::support::{event, eventually, get, post, relay, status};

/// How soon a refusal is an answer: nobody waits for the publish deadline.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Fails unless a relay says all of these on /status and /readyz, and in its refusals, within 10 s.
async fn is_named(kafka: KafkaConfig, topic: &str, expected: &[&str]) {
    let relay = Relay::start(settings(kafka, topic)).await.unwrap();
    let has_all = |text: &str| expected.iter().all(|expected| text.contains(expected));
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let kafka = status(&relay).await.kafka;
        assert!(!kafka.reachable, "Kafka let it in");
        let shown = kafka.error.unwrap_or_default();
        if has_all(&shown) {
            break;
        }
        assert!(Instant::now() < until, "{expected:?} are not all in: {shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ready = get(&relay, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(has_all(&ready.body), "{}", ready.body);
    relay.shutdown().await;
}

#[tokio::test]
async fn a_wrong_password_is_named_by_user_mechanism_and_file() {
    let (cluster, _whole) = Cluster::whole().await;
    for mechanism in [SaslMechanism::ScramSha512, SaslMechanism::ScramSha256, SaslMechanism::Plain] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "wrong").unwrap();
        let kafka = cluster.sasl(mechanism, USER, directory.path());
        let expected = ["user \"relay\"", mechanism.as_str(), file.to_str().unwrap(), "failed for user"];
        is_named(kafka, "any", &expected).await;
    }
}

#[tokio::test]
async fn a_wrong_ca_is_named_by_its_file() {
    let (cluster, _whole) = Cluster::whole().await;
    let mut kafka = cluster.tls();
    kafka.tls.as_mut().unwrap().ca_file = Some(cluster.wrong_ca_file());
    let expected = ["is not trusted", cluster.wrong_ca_file().to_str().unwrap(), "the CA that signed it"]
        .map(str::to_owned);
    is_named(kafka, "any", &expected.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn a_certificate_of_another_name_than_the_brokers_is_named() {
    let (cluster, _whole) = Cluster::whole().await;
    let mut kafka = cluster.tls();
    // The same address, by another name than the certificate has.
    for server in &mut kafka.bootstrap_servers {
        *server = server.replace("127.0.0.1", "127.1");
    }
    is_named(kafka, "any", &["is not trusted", "made for the name by which the broker is reached"]).await;
}

#[tokio::test]
async fn a_listener_with_or_without_tls_is_named_when_wrong() {
    let (cluster, _whole) = Cluster::whole().await;
    let servers = |kafka: KafkaConfig| kafka.bootstrap_servers;
    let tls_to_plain = KafkaConfig { bootstrap_servers: servers(cluster.plaintext()), ..cluster.tls() };
    is_named(tls_to_plain, "any", &["SSL", "listener for TLS"]).await;
    let plain_to_tls = KafkaConfig { bootstrap_servers: servers(cluster.tls()), ..cluster.plaintext() };
    is_named(plain_to_tls, "any", &["kafka.tls must be set"]).await;
}

#[tokio::test]
async fn a_client_certificate_that_is_missing_is_named() {
    let (cluster, _whole) = Cluster::whole().await;
    let mut kafka = cluster.mutual_tls(&cluster.tls_secret(USER));
    kafka.tls.as_mut().unwrap().client_certificate = None;
    is_named(kafka, "any", &["client certificate", "kafka.tls"]).await;
}

#[tokio::test]
async fn a_client_certificate_that_is_over_is_named_by_its_file() {
    let (cluster, _whole) = Cluster::whole().await;
    harness(&["user", "expired"]).await;
    harness(&["expire", "expired"]).await;
    let secret = cluster.tls_secret("expired");
    is_named(cluster.mutual_tls(&secret), "any", &[&shown(&secret), "not be over"]).await;
}

#[tokio::test]
async fn a_client_certificate_of_another_ca_is_named_by_its_file() {
    let (cluster, _whole) = Cluster::whole().await;
    let secret = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed([USER.to_owned()]).unwrap();
    std::fs::write(secret.path().join("user.crt"), signed.cert.pem()).unwrap();
    std::fs::write(secret.path().join("user.key"), signed.signing_key.serialize_pem()).unwrap();
    let expected = [&*shown(secret.path()), "signed by the CA that they trust"];
    is_named(cluster.mutual_tls(secret.path()), "any", &expected).await;
}

/// The certificate in a mounted Secret, as it is named.
fn shown(secret: &Path) -> String {
    secret.join("user.crt").display().to_string()
}

#[tokio::test]
async fn brokers_that_cannot_be_reached_are_named_with_what_to_check() {
    let (_, _whole) = Cluster::whole().await;
    let kafka = KafkaConfig { bootstrap_servers: vec!["127.0.0.1:1".into()], ..KafkaConfig::default() };
    is_named(kafka, "any", &["127.0.0.1:1", "refused", "bootstrapServers", "network policy"]).await;
}

#[tokio::test]
async fn a_missing_topic_is_listed_refused_at_once_and_found_again() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = format!("real-kafka.{}.late", std::process::id());
    let relay = relay(settings(cluster.plaintext(), &topic)).await;
    eventually("it is listed", || relay.status().missing_topics == [topic.clone()]).await;
    let metric = format!(r#"presenceroute_relay_missing_topics{{topic="{topic}"}} 1"#);
    assert!(get(&relay, "/metrics").await.body.contains(&metric));
    let answer = within(AT_ONCE, "the refusal", post(&relay, &event("1"))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
    assert!(answer.detail().contains(&format!("topic \"{topic}\" does not exist")), "{}", answer.detail());
    cluster.create_topic(&topic, 1, &[]).await;
    eventually("it is found", || relay.status().missing_topics.is_empty()).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    assert!(!get(&relay, "/metrics").await.body.contains(&metric));
}

/// A relay as a user that Kafka knows, and the user's name.
async fn relay_as(cluster: &Cluster, user: &str, topic: &str) -> presenceroute_relay::RunningRelay {
    let kafka = cluster.sasl(SaslMechanism::ScramSha512, user, &cluster.scram_secret(user));
    relay(settings(kafka, topic)).await
}

#[tokio::test]
async fn a_topic_without_write_access_is_rejected_with_the_user() {
    let (cluster, _whole) = Cluster::whole().await;
    let (topic, other) = (cluster.topic(1, &[]).await, cluster.topic(1, &[]).await);
    harness(&["user", "reader"]).await;
    harness(&["allow", "reader", &topic, "Describe"]).await;
    harness(&["allow", "reader", &other, "Write"]).await;
    let relay = relay_as(&cluster, "reader", &topic).await;
    for id in ["1", "2"] {
        // The first one waits for the connection to the leader.
        let answer = within(AT_ONCE * 2, "the refusal", post(&relay, &event(id))).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"), "{}", answer.body);
        for expected in [topic.as_str(), "authorization", "user \"reader\"", "grant"] {
            assert!(answer.detail().contains(expected), "{expected} in {}", answer.detail());
        }
    }
    harness(&["allow", "reader", &topic, "Write"]).await;
    until_accepted(&relay).await;
}

#[tokio::test]
async fn a_user_without_a_grant_is_named_and_works_once_granted() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    harness(&["user", "stranger"]).await;
    let relay = relay_as(&cluster, "stranger", &topic).await;
    eventually("the status names it", || {
        relay.status().kafka.error.is_some_and(|error| {
            error.contains("user \"stranger\"") && error.contains("authorization") && error.contains("grant")
        })
    })
    .await;
    let status = relay.status();
    assert_eq!(status.missing_topics, [""; 0], "it exists, as far as anybody knows");
    assert_eq!(status.forbidden_topics, [topic.as_str()]);
    let metric = format!(r#"presenceroute_relay_forbidden_topics{{topic="{topic}"}} 1"#);
    assert!(get(&relay, "/metrics").await.body.contains(&metric), "{metric} is not there");
    let answer = within(AT_ONCE * 2, "the refusal", post(&relay, &event("1"))).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"), "{}", answer.body);
    assert!(answer.detail().contains(&topic) && answer.detail().contains("stranger"), "{}", answer.detail());
    harness(&["allow", "stranger", &topic, "Describe", "Write"]).await;
    until_accepted(&relay).await;
    eventually("nothing is wrong any more", || {
        let status = relay.status();
        status.kafka.error.is_none() && status.forbidden_topics.is_empty()
    })
    .await;
}

async fn until_accepted(relay: &presenceroute_relay::RunningRelay) {
    within(Duration::from_secs(10), "the grant", async {
        while post(relay, &event("after")).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_record_that_is_too_large_for_its_topic_is_refused_at_once() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[("max.message.bytes", "1000")]).await;
    let relay = relay(settings(cluster.plaintext(), &topic)).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    let large = event("2").replace("org-1", &"x".repeat(2_000));
    let answer = within(AT_ONCE, "the refusal", post(&relay, &large)).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
    assert!(answer.detail().contains("record of this size"), "{}", answer.detail());
    assert_eq!(post(&relay, &event("3")).await.status, 200);
}
