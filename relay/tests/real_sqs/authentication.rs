//! Signatures, rights, and keys that change, checked by moto.

use presenceroute_core::relay_config::AwsCredentialFiles;
use presenceroute_relay::Relay;

use crate::cluster::Cluster;
use crate::moto::Moto;
use crate::queue::{access_key, envelope, relay, settings, soon, to_topic, unique};
use crate::support::{eventually, get, mount};

#[tokio::test]
async fn a_wrong_key_is_named_with_its_code_and_no_secret() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    let moto = Moto::lenient().await;
    let user = unique("wrong");
    moto.user(&user).await;
    moto.allow(&user).await;
    let key = moto.key(&user).await;
    let queue = moto.queue(&user).await;
    moto.checks(true).await;
    for (id, secret, code) in [
        (key.id.as_str(), "wrong-secret-wrong-secret", "SignatureDoesNotMatch"),
        ("AKIAUNKNOWN000000000", key.secret.as_str(), "InvalidClientTokenId"),
    ] {
        let source = moto.config(queue.clone(), access_key(id, secret));
        let relay = Relay::start(settings(source, cluster.plaintext(), &to_topic(&topic))).await.unwrap();
        eventually("the failure is known", || {
            relay.status().queue.is_some_and(|queue| queue.error.is_some())
        })
        .await;
        let error = relay.status().queue.unwrap().error.unwrap();
        assert!(error.contains(code) && error.contains(id), "{error}");
        let shown = [get(&relay, "/readyz").await.body, get(&relay, "/status").await.body];
        assert!(shown.iter().all(|text| !text.contains(secret)), "{shown:?}");
        assert_eq!(get(&relay, "/readyz").await.status, 503);
        relay.shutdown().await;
    }
    moto.checks(false).await;
}

#[tokio::test]
async fn a_missing_right_is_named_with_code_and_principal() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    let moto = Moto::lenient().await;
    let user = unique("powerless");
    moto.user(&user).await;
    let key = moto.key(&user).await;
    let queue = moto.queue(&user).await;
    moto.checks(true).await;
    let source = moto.config(queue, access_key(&key.id, &key.secret));
    let relay = Relay::start(settings(source, cluster.plaintext(), &to_topic(&topic))).await.unwrap();
    eventually("the failure is known", || relay.status().queue.is_some_and(|queue| queue.error.is_some()))
        .await;
    let error = relay.status().queue.unwrap().error.unwrap();
    let principal = format!("user/{user}");
    for part in ["AccessDenied", principal.as_str(), "sqs:ReceiveMessage, sqs:DeleteMessage"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    moto.checks(false).await;
    relay.shutdown().await;
}

#[tokio::test]
async fn a_rotated_key_is_taken_up_while_the_relay_runs() {
    let (cluster, _whole) = Cluster::whole().await;
    let topic = cluster.topic(1, &[]).await;
    let moto = Moto::lenient().await;
    let user = unique("rotated");
    moto.user(&user).await;
    moto.allow(&user).await;
    let old = moto.key(&user).await;
    let queue = moto.queue(&user).await;
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("id", &old.id), ("secret", &old.secret)]);
    let files = AwsCredentialFiles {
        access_key_id_file: directory.path().join("id"),
        secret_access_key_file: directory.path().join("secret"),
        session_token_file: Some(directory.path().join("token")),
    };
    moto.checks(true).await;
    let source = moto.config(queue.clone(), files);
    let relay = relay(settings(source, cluster.plaintext(), &to_topic(&topic))).await;

    moto.checks(false).await;
    let new = moto.key(&user).await;
    moto.delete_key(&user, &old).await;
    // What is received ends the receive that waits.
    moto.send(&queue, &envelope("e-1", "u-1").0).await;
    moto.checks(true).await;
    // At the latest when the receive that waits is over.
    soon("the old key is refused", || !relay.status().queue.unwrap().readable).await;
    mount(directory.path(), "2", &[("id", &new.id), ("secret", &new.secret)]);
    eventually("the new key is used", || relay.status().queue.unwrap().readable).await;

    moto.checks(false).await;
    moto.send(&queue, &envelope("e-2", "u-1").0).await;
    moto.checks(true).await;
    // What could not be deleted with the old key comes again.
    soon("both are deleted", || relay.status().queue.unwrap().deleted >= 2).await;
    assert_eq!(cluster.records(&topic).await.len(), 2);
    moto.checks(false).await;
    relay.shutdown().await;
}
