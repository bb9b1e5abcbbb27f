//! TLS on the port that events are posted to, over real connections, with certificates that change.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use presenceroute_core::relay_config::CertificateFiles;
use presenceroute_relay::RunningRelay;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A certificate for the name `relay`, signed by itself, and its key.
struct Pair {
    der: CertificateDer<'static>,
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
        Self {
            der: made.cert.der().clone(),
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    /// Puts it where the kubelet puts a Secret of the type kubernetes.io/tls.
    fn mount(&self, directory: &Path, generation: &str) {
        mount(directory, generation, &[("tls.crt", &self.certificate), ("tls.key", &self.key)]);
    }

    /// A connection whose client trusts this certificate and no other.
    async fn connect(&self, address: SocketAddr, protocol: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("relay").unwrap(), stream).await
    }
}

/// A relay that serves what is in this directory.
async fn relay_of(directory: &Path, brokers: &str) -> RunningRelay {
    let mut settings = settings(brokers, TABLE);
    settings.config.tls = Some(CertificateFiles {
        certificate_file: directory.join("tls.crt"),
        private_key_file: directory.join("tls.key"),
    });
    relay(settings).await
}

async fn post_on(stream: &mut TlsStream<TcpStream>, id: &str) -> u16 {
    stream.write_all(&signed(SECRET, event(id).as_bytes())).await.unwrap();
    read_answer(stream).await.unwrap().status
}

#[tokio::test]
async fn events_are_received_over_http_1_and_http_2() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    pair.mount(directory.path(), "1");
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;

    let mut http1 = pair.connect(relay.address(), "http/1.1").await.unwrap();
    assert_eq!(http1.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(post_on(&mut http1, "1").await, 200);

    let http2 = pair.connect(relay.address(), "h2").await.unwrap();
    assert_eq!(http2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = h2::client::handshake(http2).await.unwrap();
    tokio::spawn(connection);
    let body = event("2");
    let request = http::Request::post(format!("https://relay{PATH}"))
        .header("X-Genesys-Event-Signature", sign(SECRET, body.as_bytes()))
        .body(())
        .unwrap();
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(body.into(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 2).await;
}

#[tokio::test]
async fn a_changed_certificate_is_served_and_open_connections_go_on() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    let first = Pair::new();
    first.mount(directory.path(), "1");
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;
    let mut connections = vec![first.connect(relay.address(), "http/1.1").await.unwrap()];
    for generation in ["2", "3"] {
        let next = Pair::new();
        assert!(next.connect(relay.address(), "http/1.1").await.is_err(), "it is served before it is there");
        next.mount(directory.path(), generation);
        connections.push(served(&next, relay.address()).await);
        for (number, connection) in connections.iter_mut().enumerate() {
            assert_eq!(post_on(connection, &format!("{generation}-{number}")).await, 200);
        }
    }
    assert!(first.connect(relay.address(), "http/1.1").await.is_err(), "the first one is still served");
}

/// A connection to a relay as soon as it serves this certificate.
async fn served(pair: &Pair, address: SocketAddr) -> TlsStream<TcpStream> {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        match pair.connect(address, "http/1.1").await {
            Ok(connection) => return connection,
            Err(error) => assert!(std::time::Instant::now() < until, "never served: {error}"),
        }
    }
}

#[tokio::test]
async fn an_invalid_certificate_keeps_the_last_one_and_is_reported() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    pair.mount(directory.path(), "1");
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;
    let report = status(&relay).await.tls.unwrap();
    assert!(report.error.is_none() && report.expires.is_some(), "{report:?}");

    let broken = [
        ("2", Pair::new().key, "cannot be served together"),
        ("3", "no key".to_owned(), "holds no unencrypted private key"),
    ];
    for (generation, key, expected) in broken {
        mount(directory.path(), generation, &[("tls.crt", &pair.certificate), ("tls.key", &key)]);
        eventually("the pair is refused", || {
            relay.status().tls.unwrap().error.is_some_and(|error| error.contains(expected))
        })
        .await;
        let mut connection = pair.connect(relay.address(), "http/1.1").await.unwrap();
        assert_eq!(post_on(&mut connection, generation).await, 200);
        let metrics = get(&relay, "/metrics").await.body;
        assert!(metrics.contains(r#"relay_certificate_valid{certificate="listener"} 0"#), "{metrics}");
        assert!(metrics.contains(r#"certificate_expiry_timestamp_seconds{certificate="listener"} "#));
        assert_eq!(get(&relay, "/readyz").await.status, 200);
    }
    pair.mount(directory.path(), "4");
    eventually("the error is gone", || relay.status().tls.unwrap().error.is_none()).await;
}

#[tokio::test]
async fn a_relay_without_its_certificate_is_not_ready_and_says_so() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;
    let answer = get(&relay, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("no certificate: ") && answer.body.contains("tls.crt"), "{}", answer.body);
    let pair = Pair::new();
    assert!(pair.connect(relay.address(), "http/1.1").await.is_err());
    pair.mount(directory.path(), "1");
    eventually("the certificate is there", || relay.status().tls.unwrap().expires.is_some()).await;
    assert_eq!(get(&relay, "/readyz").await.status, 200);
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_not_answered_and_is_counted() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    Pair::new().mount(directory.path(), "1");
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    stream.write_all(&signed(SECRET, event("1").as_bytes())).await.unwrap();
    assert!(read_answer(&mut stream).await.is_none());
    metrics_show(&relay, &["presenceroute_relay_tls_handshake_failures_total 1"]).await;
    records(&kafka.bootstrap_servers(), "gen-presence-state", 0).await;
}

#[tokio::test]
async fn plain_http_and_tls_are_served_on_two_ports_at_once() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.tls = Some(CertificateFiles {
        certificate_file: directory.path().join("tls.crt"),
        private_key_file: directory.path().join("tls.key"),
    });
    settings.config.tls_port = Some(0);
    settings.config.limits.drain_ms = 2_000;
    let relay = relay(settings).await;
    let (plain, tls) = (relay.address(), relay.tls_address().unwrap());
    assert_eq!(get(&relay, "/readyz").await.status, 503, "a port without its certificate is not ready");
    pair.mount(directory.path(), "1");
    let mut encrypted = served(&pair, tls).await;
    assert_eq!(post_on(&mut encrypted, "1").await, 200);
    assert_eq!(post(&relay, &event("2")).await.status, 200);
    assert!(pair.connect(plain, "http/1.1").await.is_err(), "the plain port speaks TLS");
    metrics_show(&relay, &["presenceroute_relay_connections 1"]).await;

    // Both ports drain, and both end.
    let ending = tokio::spawn(relay.shutdown());
    let sent = signed(SECRET, event("3").as_bytes());
    let until = std::time::Instant::now() + PATIENCE;
    while exchange(plain, &sent).await.headers.get("connection").is_none_or(|it| it != "close") {
        assert!(std::time::Instant::now() < until, "the plain port does not drain");
    }
    let mut late = pair.connect(tls, "http/1.1").await.unwrap();
    assert_eq!(post_on(&mut late, "4").await, 200);
    tokio::time::timeout(PATIENCE, ending).await.unwrap().unwrap();
    for address in [plain, tls] {
        assert!(TcpStream::connect(address).await.is_err(), "{address} is still open");
    }
    records(&kafka.bootstrap_servers(), "gen-presence-state", 4).await;
}

#[tokio::test]
async fn a_relay_ends_while_a_handshake_is_under_way() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    Pair::new().mount(directory.path(), "1");
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;
    let silent = TcpStream::connect(relay.address()).await.unwrap();
    metrics_show(&relay, &["presenceroute_relay_connections 1"]).await;
    tokio::time::timeout(PATIENCE / 2, relay.shutdown()).await.unwrap();
    drop(silent);
}

/// Before the time for a handshake is over, and before more of it is kept than a connection may cost.
#[tokio::test]
async fn a_hello_that_never_ends_is_not_gathered() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    Pair::new().mount(directory.path(), "1");
    let relay = relay_of(directory.path(), &kafka.bootstrap_servers()).await;
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    // A record of 16 KiB each: the first begins a hello of 64 KiB, the next ones go on with it.
    let record = |payload: &[u8]| [&[0x16, 3, 1, 0x40, 0][..], payload].concat();
    let mut hello = vec![0; 0x4000];
    hello[..4].copy_from_slice(&[1, 0, 0xff, 0xf0]);
    let begun = std::time::Instant::now();
    stream.write_all(&record(&hello)).await.unwrap();
    stream.write_all(&record(&vec![0; 0x4000])).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    relay.shutdown().await;
}
