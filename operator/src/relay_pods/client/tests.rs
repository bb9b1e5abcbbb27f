use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn pod(name: &str, address: &str) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": "presence",
            "labels": {"presenceroute.io/route": "contact-centre", "pod-template-hash": "5d8"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "contact-centre-relay-5d8",
                "uid": "of the ReplicaSet", "controller": true,
            }],
        },
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

/// A client for the pods of one route, all of them at this port of the loopback network.
fn client(port: u16, pods: u8) -> RelayStatusClient {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let cache = Arc::new(PodCache::default());
    cache.handle(Event::Init);
    for number in 1..=pods {
        cache.handle(Event::InitApply(pod(&format!("relay-{number:03}"), &format!("127.0.0.{number}"))));
    }
    cache.handle(Event::InitDone);
    RelayStatusClient { port, ..RelayStatusClient::new(cache, None).unwrap() }
}

async fn reports(client: &RelayStatusClient) -> Vec<Result<RelayStatus, String>> {
    let pods = client.read("presence", "contact-centre").await.pods;
    pods.into_iter().map(|pod| pod.report.map_err(|cause| cause.to_string())).collect()
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Serves what `answer` gives at `/status`, and returns the port.
async fn serve<R: IntoResponse>(answer: impl Fn() -> R + Clone + Send + Sync + 'static) -> u16 {
    let (listener, port) = listener().await;
    let router = Router::new().route("/status", get(async move || answer()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

/// Answers every request with `head`, then with `piece` again and again until the client is gone. Returns the port, and
/// the bytes that were taken.
async fn write_for_ever(
    head: &'static str,
    piece: &'static [u8],
    pause: Duration,
) -> (u16, Arc<AtomicUsize>) {
    async fn write(
        mut connection: TcpStream,
        (head, piece): (&str, &[u8]),
        pause: Duration,
        written: &AtomicUsize,
    ) -> std::io::Result<Infallible> {
        connection.read_buf(&mut Vec::with_capacity(4096)).await?;
        connection.write_all(head.as_bytes()).await?;
        loop {
            connection.write_all(piece).await?;
            written.fetch_add(piece.len(), Ordering::Relaxed);
            tokio::time::sleep(pause).await;
        }
    }
    let (listener, port) = listener().await;
    let written = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&written);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move { write(connection, (head, piece), pause, &count).await });
        }
    });
    (port, written)
}

fn status() -> Value {
    json!({
        "version": "1.2.3", "routing": {"revision": "abc", "routes": 1},
        "secrets": {"revision": "def", "active": 1}, "kafka": {"reachable": true},
        "inFlight": 0, "draining": false,
    })
}

#[tokio::test]
async fn every_pod_of_the_route_is_asked() {
    let port = serve(|| axum::Json(status())).await;
    let relays = client(port, 3).read("presence", "contact-centre").await;
    let names: Vec<_> = relays.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["relay-001", "relay-002", "relay-003"]);
    assert!(relays.pods.iter().all(|pod| pod.ready && pod.report.as_ref().unwrap().version == "1.2.3"));
    assert!(client(port, 3).read("another", "contact-centre").await.pods.is_empty());
}

#[tokio::test]
async fn endless_answers_are_cut_off_at_the_bound() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"version\": \"";
    let (port, written) = write_for_ever(HEAD, &[b'x'; 16 * 1024], Duration::ZERO).await;
    let began = Instant::now();
    let too_long = Err("its /status answers more than 256 KiB".to_owned());
    assert_eq!(reports(&client(port, 4)).await, vec![too_long; 4]);
    assert!(began.elapsed() < STATUS_TIMEOUT, "{:?}", began.elapsed());
    // Besides the bodies that were read there is what the sockets take: no more than 10 MiB each.
    let written = written.load(Ordering::Relaxed);
    assert!(written < 4 * 10 * 1024 * 1024, "{written} bytes");
}

#[tokio::test]
async fn an_answer_that_trickles_ends_with_the_time_limit() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n\r\n{\"version\": \"";
    let (port, _) = write_for_ever(HEAD, b"x", Duration::from_millis(50)).await;
    let late = Err("its /status does not answer within a second".to_owned());
    assert_eq!(reports(&client(port, 4)).await, vec![late; 4]);
}

/// Nothing listens, nothing answers the first packet, or something in between ends the connection.
#[tokio::test]
async fn a_port_that_the_network_closes_is_told_from_a_pod_that_hangs() {
    let (closed, port) = listener().await;
    drop(closed);
    let refused = client(port, 1);
    let (resets, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((connection, _)) = resets.accept().await {
            connection.set_zero_linger().unwrap();
        }
    });
    let reset = client(port, 1);
    // As many connections as wait to be accepted: packets of another are dropped.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(connection)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        waiting.push(connection);
    }
    let dropped = client(address.port(), 1);
    for client in [refused, reset, dropped] {
        let relays = client.read("presence", "contact-centre").await;
        assert!(matches!(relays.pods[0].report, Err(NoReport::Unreachable)), "{:?}", relays.pods[0].report);
    }
    let (silent, port) = listener().await;
    let relays = client(port, 1).read("presence", "contact-centre").await;
    assert!(matches!(relays.pods[0].report, Err(NoReport::Late)), "{:?}", relays.pods[0].report);
    drop(silent);
}

#[tokio::test]
async fn an_endless_head_is_an_error() {
    let fields = "X-More: and more\r\n".repeat(1000).leak().as_bytes();
    let (port, written) = write_for_ever("HTTP/1.1 200 OK\r\n", fields, Duration::ZERO).await;
    let unread = Err("its /status on port 9090 cannot be reached".to_owned());
    assert_eq!(reports(&client(port, 1)).await, [unread]);
    assert!(written.load(Ordering::Relaxed) < 10 * 1024 * 1024);
}

#[tokio::test]
async fn long_lists_and_texts_are_cut_to_their_bounds() {
    let port = serve(|| {
        let mut status = status();
        status["missingTopics"] = json!(vec!["t"; 50_000]);
        status["kafka"]["error"] = json!("e".repeat(10_000));
        axum::Json(status)
    })
    .await;
    let [report] = reports(&client(port, 1)).await.try_into().unwrap();
    let report = report.unwrap();
    assert_eq!((report.missing_topics.len(), report.kafka.error.unwrap().len()), (100, 256));

    let port = serve(|| {
        let mut status = status();
        status["missingTopics"] = json!(vec!["t"; 100_000]);
        axum::Json(status)
    })
    .await;
    let too_long = Err("its /status answers more than 256 KiB".to_owned());
    assert_eq!(reports(&client(port, 1)).await, [too_long]);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let (listener, port) = listener().await;
    let redirect = async || Redirect::temporary("/elsewhere");
    let elsewhere = async move || {
        counted.fetch_add(1, Ordering::Relaxed);
        axum::Json(status())
    };
    let router = Router::new()
        .route("/", get(redirect))
        .route("/status", get(redirect))
        .route("/elsewhere", get(elsewhere));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let client = client(port, 1);
    assert_eq!(reports(&client).await, [Err("its /status answers 307".to_owned())]);
    assert!(client.answers([127, 0, 0, 1].into(), "http", port.into()).await, "a redirect is an answer");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn terminal_escapes_do_not_leave_the_report() {
    let port = serve(|| {
        let mut status = status();
        status["routing"] =
            json!({"revision": "\u{1b}[31mabc", "routes": 1, "error": "a\u{1b}]0;b\u{7}\r\nc"});
        axum::Json(status)
    })
    .await;
    let [report] = reports(&client(port, 1)).await.try_into().unwrap();
    let routing = report.unwrap().routing;
    assert_eq!((routing.revision.as_str(), routing.error.as_deref()), ("[31mabc", Some("a]0;bc")));
}

#[tokio::test]
async fn another_answer_than_a_relays_is_an_error() {
    let port = serve(|| "hello").await;
    let answer = Err("its /status does not answer as a relay does".to_owned());
    assert_eq!(reports(&client(port, 1)).await, [answer]);
    let port = serve(|| axum::http::StatusCode::NOT_FOUND).await;
    assert_eq!(reports(&client(port, 1)).await, [Err("its /status answers 404".to_owned())]);
}

#[tokio::test]
async fn the_pods_of_a_route_are_asked_in_a_bounded_number() {
    let (in_flight, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (listener, port) = listener().await;
    let counts = (Arc::clone(&in_flight), Arc::clone(&most));
    let answer = async move || -> Response {
        let (in_flight, most) = counts;
        most.fetch_max(in_flight.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        // The number is counted until the body is sent.
        let body = async move {
            tokio::task::yield_now().await;
            in_flight.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(status().to_string()))
        };
        Body::from_stream(futures::stream::once(body)).into_response()
    };
    let router = Router::new().route("/status", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let reports = reports(&client(port, 120)).await;
    let refused = "the operator asks at most 100 pods of a route";
    assert!(reports[..MAX_PODS].iter().all(Result::is_ok), "{:?}", reports[0]);
    assert!(reports[MAX_PODS..].iter().all(|report| report.as_ref().is_err_and(|cause| cause == refused)));
    assert!((1..=AT_ONCE_IN_NAMESPACE).contains(&most.load(Ordering::Relaxed)), "{most:?}");
}
