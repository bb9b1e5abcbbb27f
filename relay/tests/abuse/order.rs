//! The rows of the contract in their order: a request that breaks several of its rules is told the first one. The
//! same over HTTP/1.1 and over HTTP/2.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::process::*;
use crate::support::*;

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

/// A request, and as much of its body as is sent.
struct Request {
    method: &'static str,
    path: &'static str,
    signature: Option<String>,
    encoding: &'static str,
    /// The length that is announced.
    length: usize,
    body: String,
}

/// The status, the problem's name and whether a time to retry is given.
async fn ask(protocol: Protocol, relay: &Process, request: &Request) -> (u16, String, bool) {
    let answer = async {
        match protocol {
            Protocol::Http1 => over_http1(relay, request).await,
            Protocol::Http2 => over_http2(relay, request).await,
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time");
    let problem = if answer.status == 200 { String::new() } else { answer.problem() };
    (answer.status, problem, answer.headers.contains_key("retry-after"))
}

async fn over_http1(relay: &Process, request: &Request) -> Answer {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let signature = request.signature.as_ref();
    let signature =
        signature.map(|text| format!("x-genesys-event-signature: {text}\r\n")).unwrap_or_default();
    let Request { method, path, length, body, encoding, .. } = request;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: relay\r\n{signature}content-encoding: {encoding}\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    read_answer(&mut stream).await.expect("an answer")
}

async fn over_http2(relay: &Process, request: &Request) -> Answer {
    let mut sender = crate::http2::connect(relay).await.ready().await.unwrap();
    let mut head = http::Request::builder()
        .method(request.method)
        .uri(format!("http://relay{}", request.path))
        .header("content-encoding", request.encoding)
        .header("content-length", request.length);
    if let Some(signature) = &request.signature {
        head = head.header("x-genesys-event-signature", signature);
    }
    let (answer, mut sending) = sender.send_request(head.body(()).unwrap(), false).unwrap();
    sending.send_data(Bytes::from(request.body.clone()), request.body.len() == request.length).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    let headers =
        head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    Answer {
        status: head.status.as_u16(),
        headers: headers.collect(),
        body: String::from_utf8(bytes).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_several_rules_is_told_the_first() {
    let relay = Abused::start("{bodyTimeoutMs: 300, publishTimeoutMs: 500}").await;
    let too_large = (1 << 20) + 1;
    let unrouted = || event_of("presence:other", &unique());
    let routed = || event(&unique());
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let told_of = async |method, path, signature: Option<&str>, encoding, body: &str, length: usize| {
            let signature = signature.map(|secret| sign(secret, body.as_bytes()));
            let request = Request { method, path, signature, encoding, length, body: body.to_owned() };
            let (status, problem, is_to_retry) = ask(protocol, &relay, &request).await;
            assert!(!is_to_retry || status == 503, "{protocol:?} {problem}");
            (status, problem)
        };
        let encoded = async |method, path, signature: Option<&str>, body: &str, length: usize| {
            told_of(method, path, signature, "gzip", body, length).await
        };
        let told = async |method, path, signature: Option<&str>, body: &str, length: usize| {
            told_of(method, path, signature, "identity", body, length).await
        };
        let is = |status: u16, problem: &str| (status, problem.to_owned());
        // Each is wrong in everything that comes later in the contract, too.
        assert_eq!(
            encoded("GET", "/other", None, "x", too_large).await,
            is(404, "unknown-path"),
            "{protocol:?}"
        );
        assert_eq!(
            encoded("GET", PATH, None, "x", too_large).await,
            is(405, "method-not-allowed"),
            "{protocol:?}"
        );
        assert_eq!(
            encoded("POST", PATH, None, "x", too_large).await,
            is(413, "body-too-large"),
            "{protocol:?}"
        );
        assert_eq!(encoded("POST", PATH, None, "x", 2).await, is(400, "signature-missing"), "{protocol:?}");
        assert_eq!(
            encoded("POST", PATH, Some("guess"), "x", 2).await,
            is(415, "encoding-unsupported"),
            "{protocol:?}"
        );
        assert_eq!(told("POST", PATH, Some("guess"), "x", 2).await, is(408, "body-timeout"), "{protocol:?}");
        assert_eq!(
            told("POST", PATH, Some("guess"), "x", 1).await,
            is(403, "signature-mismatch"),
            "{protocol:?}"
        );
        assert_eq!(told("POST", PATH, Some(SECRET), "x", 1).await, is(400, "event-invalid"), "{protocol:?}");
        let body = unrouted();
        assert_eq!(
            told("POST", PATH, Some(SECRET), &body, body.len()).await,
            is(404, "unrouted"),
            "{protocol:?}"
        );
        let body = routed();
        assert_eq!(told("POST", PATH, Some(SECRET), &body, body.len()).await, is(200, ""), "{protocol:?}");
    }
    // With Kafka away, what the relay can tell by itself is told all the same.
    relay.kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (secret, body, status, problem, is_to_retry) in [
            ("guess", routed(), 403, "signature-mismatch", false),
            (SECRET, "{}".to_owned(), 400, "event-invalid", false),
            (SECRET, unrouted(), 404, "unrouted", false),
            (SECRET, routed(), 503, "kafka-unavailable", true),
        ] {
            let signature = Some(sign(secret, body.as_bytes()));
            let request = Request {
                method: "POST",
                path: PATH,
                signature,
                encoding: "identity",
                length: body.len(),
                body,
            };
            let told = ask(protocol, &relay, &request).await;
            assert_eq!(told, (status, problem.to_owned(), is_to_retry), "{protocol:?}");
        }
    }
}
