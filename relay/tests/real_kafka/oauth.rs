//! SASL OAUTHBEARER: tokens from a token endpoint, to brokers that look at what a token says.
//!
//! The harness's brokers take tokens without a signature (RFC 7515, appendix A.5): who gave one is not proved by them, but
//! whose it is and until when.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use presenceroute_core::relay_config::SaslMechanism;
use presenceroute_core::relay_config::{KafkaConfig, KafkaOauthConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::cluster::{Cluster, USER, settings};
use crate::support::{event, eventually, get, post, relay, status};

/// A token endpoint that gives everybody a token for one user.
pub(crate) struct TokenEndpoint {
    url: String,
    given: Arc<AtomicUsize>,
}

impl TokenEndpoint {
    /// Its tokens are valid for `life` seconds from when they are given; less than none is over already.
    pub(crate) async fn start(user: &'static str, life: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let given = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&given);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"grant_type=client_credentials") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let grant =
                    json!({"access_token": token(user, life), "expires_in": life.max(60)}).to_string();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length";
                stream.write_all(format!("{head}: {}\r\n\r\n{grant}", grant.len()).as_bytes()).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { url, given }
    }

    fn given(&self) -> usize {
        self.given.load(Ordering::Relaxed)
    }

    /// With an OAuth client in a directory that is mounted from its Secret.
    pub(crate) fn kafka(&self, cluster: &Cluster, secret: &Path) -> KafkaConfig {
        std::fs::write(secret.join("username"), "relays-client").unwrap();
        std::fs::write(secret.join("password"), "hush").unwrap();
        let mut kafka = cluster.sasl(SaslMechanism::OauthBearer, USER, secret);
        let oauth = KafkaOauthConfig {
            token_endpoint_url: self.url.clone(),
            scope: None,
            // Those of Confluent Cloud; this broker takes whatever is well formed.
            extensions: [("logicalCluster", "lkc-1"), ("identityPoolId", "pool-1")]
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ca_file: None,
        };
        kafka.sasl.as_mut().unwrap().oauth = Some(oauth);
        kafka
    }
}

fn token(user: &str, life: i64) -> String {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let part = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let claims = json!({"sub": user, "iat": now + life.min(0) - 1, "exp": now + life});
    format!("{}.{}.", part(json!({"alg": "none"})), part(claims))
}

#[tokio::test]
async fn an_event_arrives_by_oauthbearer() {
    let (cluster, _whole) = Cluster::whole().await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = TokenEndpoint::start(USER, 300).await;
    let topic = cluster.topic(1, &[]).await;
    let relay = relay(settings(endpoint.kafka(&cluster, directory.path()), &topic)).await;
    let answer = post(&relay, &event("1")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(cluster.records(&topic).await.len(), 1);
    assert_eq!(endpoint.given(), 1, "one token is enough for all connections");
    relay.shutdown().await;
}

#[tokio::test]
async fn a_token_that_kafka_rejects_is_reported_but_not_shown() {
    let (cluster, _whole) = Cluster::whole().await;
    let directory = tempfile::tempdir().unwrap();
    let endpoint = TokenEndpoint::start(USER, -3600).await;
    let relay =
        presenceroute_relay::Relay::start(settings(endpoint.kafka(&cluster, directory.path()), "any"))
            .await
            .unwrap();
    let mut named = None;
    eventually("it is named", || {
        named = relay.status().kafka.error.filter(|error| error.contains("OAUTHBEARER"));
        named.is_some()
    })
    .await;
    let named = named.unwrap();
    assert!(!named.contains("hush") && !named.contains(&token(USER, 0)[..20]), "{named}");
    assert!(!status(&relay).await.kafka.reachable);
    let ready = get(&relay, "/readyz").await;
    assert!(ready.status == 503 && ready.body.contains("OAUTHBEARER"), "{ready:?}");
    relay.shutdown().await;
}
