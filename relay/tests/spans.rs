//! A span for each event, as a collector gets it.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use presenceroute_relay::Spans;
use prost::Message;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";

/// A collector that takes one export.
struct Collector {
    url: String,
    exported: JoinHandle<Vec<Span>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let exported = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let body = request_body(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            let export = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            let scopes = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
            scopes.flat_map(|scope| scope.spans).collect()
        });
        Self { url, exported }
    }
}

async fn request_body(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    body
}

fn attribute<'s>(attributes: &'s [KeyValue], key: &str) -> Option<&'s Value> {
    attributes.iter().find(|found| found.key == key)?.value.as_ref()?.value.as_ref()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_a_span_that_the_record_names() {
    let kafka = kafka(&["gen-presence-state"]);
    let collector = Collector::start().await;
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.spans = Some(Spans::to(&collector.url).unwrap());
    let relay = relay(settings).await;
    let send = async |id: &str, secret: &str, traceparent: &str| {
        let body = event(id);
        let signature = sign(secret, body.as_bytes());
        let headers = [("X-Genesys-Event-Signature", signature.as_str()), ("traceparent", traceparent)];
        exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await.status
    };
    assert_eq!(send("1", SECRET, &format!("00-{TRACE}-{SENDER}-01")).await, 200);
    // The sender has decided against a span, and nobody takes one for a forged event.
    let unsampled = format!("00-{TRACE}-{SENDER}-00");
    assert_eq!(send("2", SECRET, &unsampled).await, 200);
    assert_eq!(send("3", "a guess", &format!("00-{TRACE}-{SENDER}-01")).await, 403);
    assert_eq!(post(&relay, &event_of("presence:other", "4")).await.status, 404);
    relay.shutdown().await;

    let spans = tokio::time::timeout(Duration::from_secs(10), collector.exported).await.unwrap().unwrap();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let span = &spans[0];
    assert_eq!(
        (hex::encode(&span.trace_id), hex::encode(&span.parent_span_id)),
        (TRACE.into(), SENDER.into())
    );
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
    let attributes = &span.attributes;
    assert_eq!(attribute(attributes, "cloudevents.event_id"), Some(&Value::StringValue("1".into())));
    assert_eq!(attribute(attributes, "presenceroute.outcome"), Some(&Value::StringValue("processed".into())));
    assert_eq!(attribute(attributes, "http.response.status_code"), Some(&Value::IntValue(200)));
    assert_eq!(
        attribute(&spans[1].attributes, "presenceroute.outcome"),
        Some(&Value::StringValue("unrouted".into()))
    );

    let records = records(&kafka.bootstrap_servers(), "gen-presence-state", 2).await;
    let traceparent = |id: &str| {
        let record = records.iter().find(|record| record.headers["ce_id"] == id);
        record.unwrap().headers["traceparent"].clone()
    };
    assert_eq!(traceparent("1"), format!("00-{TRACE}-{}-01", hex::encode(&span.span_id)));
    assert_eq!(traceparent("2"), unsampled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_collector_delays_no_event() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.spans = Some(Spans::to("http://127.0.0.1:1/v1/traces").unwrap());
    let relay = relay(settings).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    tokio::time::timeout(Duration::from_secs(10), relay.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_collector_delays_neither_events_nor_the_end() {
    let kafka = kafka(&["gen-presence-state"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.spans =
        Some(Spans::to(&format!("http://{}/v1/traces", listener.local_addr().unwrap())).unwrap());
    let relay = relay(settings).await;
    // More than a batch, so that it is being sent while events come.
    for number in 0..600 {
        assert_eq!(post(&relay, &event(&number.to_string())).await.status, 200);
    }
    let (silent, _) =
        tokio::time::timeout(PATIENCE, listener.accept()).await.expect("a batch is sent").unwrap();
    assert_eq!(post(&relay, &event("while it is silent")).await.status, 200);
    tokio::time::timeout(2 * PATIENCE, relay.shutdown()).await.expect("it ends");
    drop(silent);
}
