//! One request of a push source, from its head to its response: path, method, size, proof, body, event, delivery.
//!
//! [`Handler::answer`] is the HTTP contract as one function, generic over the source and the body, so that it can be
//! driven without a connection. The source is a type parameter: no request pays for a choice between sources.

use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue,
};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use presenceroute_core::event::Event;
use presenceroute_core::receipt::{PREFERENCE, Receipt};
use presenceroute_core::relay_config::Limits;

use super::body::{BodyReader, ProvenBody, is_over};
use super::memory_budget::{MemoryBudget, REQUEST_BYTES};
use super::problem;
use crate::observe::metrics::Metrics;
use crate::observe::request_log::RequestLog;
use crate::observe::trace_context::{Trace, TraceHeaders};
use crate::outcome::{Delivered, Outcome, Problem, ProblemKind, escaped};
use crate::pipeline::{Incoming, Invalid, Pipeline};
use crate::source::PushSource;

/// The body of a 200.
const PROCESSED: &[u8] = br#"{"status":"processed"}"#;

/// The body of a 200 to an event that no condition of its routes holds for.
const FILTERED: &[u8] = br#"{"status":"filtered"}"#;

/// Names the preference that was followed (RFC 7240).
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Answers the requests of one source. All connections share one.
pub struct Handler<S> {
    /// The first is named to a sender that posts to another.
    paths: Box<[String]>,
    source: S,
    body: BodyReader,
    max_event_age: Option<Duration>,
    memory: MemoryBudget,
    pipeline: Arc<Pipeline>,
    log: Arc<RequestLog>,
    metrics: Arc<Metrics>,
}

/// What is kept of a request's head. The head itself is dropped, because it keeps the memory that it was read into.
struct CheckedHead<P> {
    proof: P,
    /// The length that the sender announced, if any and not 0.
    length: Option<NonZeroUsize>,
    /// What few requests have: every connection keeps room for a request's head, so that it is no part of it.
    uncommon: Option<Box<Uncommon>>,
}

/// What few requests have.
struct Uncommon {
    wants_receipt: bool,
    /// The content encoding of a body whose signature is to be verified all the same.
    encoded: Option<Encoded>,
}

/// A body that is no event for its content encoding.
struct Encoded {
    /// The header's value.
    coding: String,
    problem: Problem,
}

/// A verified body that cannot be delivered as an event.
struct Undelivered<'b> {
    problem: Problem,
    /// The event and the value of its record, where it can be read all the same.
    event: Option<(Event<'b>, Bytes)>,
    /// The content encoding that the sender names.
    coding: Option<String>,
}

/// An event that is answered 200.
struct Accepted {
    delivered: Delivered,
    /// The positions of its records, for a sender that asked.
    receipt: Option<Receipt>,
}

impl<S: PushSource> Handler<S> {
    /// A handler of `source`, which is posted to at these paths. Of several, the first is the newest.
    pub fn new(
        paths: Vec<String>,
        source: S,
        limits: &Limits,
        pipeline: Arc<Pipeline>,
        log: Arc<RequestLog>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            paths: paths.into(),
            source,
            body: BodyReader::new(limits, S::SLOW_BODY),
            max_event_age: limits.max_event_age_ms.map(Duration::from_millis),
            memory: MemoryBudget::new(limits.max_in_flight_bytes, metrics.in_flight_bytes.clone()),
            pipeline,
            log,
            metrics,
        }
    }

    /// The response to one request. Its head is checked at once, and is no part of what waits for the body and for Kafka:
    /// a connection keeps room for that from its first request on.
    pub fn answer<B>(
        self: Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<S, B>
    where
        B: ProvenBody,
    {
        let (head, body) = request.into_parts();
        let trace = TraceHeaders::of(&head.headers);
        let expects_continue = head.headers.contains_key(EXPECT);
        let checked = self.check_head(head);
        async move { self.respond(checked, body, expects_continue, &trace).await }
    }

    async fn respond<B>(
        &self,
        checked: Result<CheckedHead<S::Proof>, Problem>,
        body: B,
        expects_continue: bool,
        trace: &TraceHeaders,
    ) -> Response<Full<Bytes>>
    where
        B: ProvenBody,
    {
        let mut body = pin!(body);
        let result = match checked {
            Ok(head) => self.process(head, body.as_mut(), trace).await,
            Err(problem) => Err(self.rejected(problem, trace)),
        };
        let (outcome, response) = match result {
            Ok(Accepted { delivered, receipt: None }) => (Outcome::Delivered(delivered), accepted(delivered)),
            Ok(Accepted { delivered, receipt: Some(receipt) }) => {
                (Outcome::Delivered(delivered), accepted_with(delivered, &receipt))
            }
            Err(problem) => {
                let kind = problem.kind;
                let mut response = problem::response(&problem, S::RETRY_REFUSED_AFTER);
                // A sender that expects a 100 has its answer, and reading its body would ask for the body.
                if problem::may_leave_body(kind) && (expects_continue || !is_over(body).await) {
                    // HTTP/1.1 has no other way past the rest of the body. Without this, a sender would send its next
                    // event into a connection that is being closed.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                (Outcome::Rejected(kind), response)
            }
        };
        self.metrics.answered(outcome);
        response
    }

    async fn process<B>(
        &self,
        head: CheckedHead<S::Proof>,
        mut body: Pin<&mut B>,
        trace: &TraceHeaders,
    ) -> Result<Accepted, Problem>
    where
        B: ProvenBody,
    {
        let span_start = self.pipeline.span_start();
        if S::IS_PROVEN_BY_HEAD {
            body.verified();
        }
        let mut reservation = self.memory.reserve();
        reservation.grow(REQUEST_BYTES).map_err(|problem| self.rejected(problem, trace))?;
        let whole = self.body.read(body.as_mut(), head.length, &mut reservation).await;
        let whole = whole.map_err(|problem| self.rejected(problem, trace))?;
        let received = Instant::now();
        let uncommon = self.verify(head, &whole).map_err(|problem| self.rejected(problem, trace))?;
        body.verified();
        let trace = trace.as_trace();
        let (wants_receipt, encoded) =
            uncommon.map_or((false, None), |uncommon| (uncommon.wants_receipt, uncommon.encoded));
        let mut receipt = wants_receipt.then(Receipt::default);
        let (event, value) = match self.decode(&whole, encoded) {
            Ok(decoded) => decoded,
            Err(undelivered) => return self.deliver_invalid(undelivered, &whole, trace, receipt).await,
        };
        let incoming = Incoming { event: &event, value: &value, trace, received, span_start };
        let delivered = self.pipeline.deliver(&incoming, receipt.as_mut()).await?;
        Ok(Accepted { delivered, receipt })
    }

    /// Verifies the origin of the body. Returns what is left of the head.
    fn verify(&self, head: CheckedHead<S::Proof>, whole: &Bytes) -> Result<Option<Box<Uncommon>>, Problem> {
        let CheckedHead { proof, uncommon, .. } = head;
        match self.source.verify(&proof, whole) {
            Ok(()) => Ok(uncommon),
            // Most likely, it is the encoding that makes another body of it than the one that was signed.
            Err(problem) => {
                let encoded = uncommon.and_then(|uncommon| uncommon.encoded);
                Err(encoded.map_or(problem, |encoded| encoded.problem))
            }
        }
    }

    /// The event in a verified body, and what becomes the value of its record.
    fn decode<'b>(
        &self,
        whole: &'b Bytes,
        encoded: Option<Encoded>,
    ) -> Result<(Event<'b>, Bytes), Box<Undelivered<'b>>> {
        if let Some(Encoded { coding, problem }) = encoded {
            return Err(Box::new(Undelivered { problem, event: None, coding: Some(coding) }));
        }
        let (event, value) = self.source.decode(whole).map_err(|error| {
            let problem = Problem::new(ProblemKind::EventInvalid, error.to_string());
            Box::new(Undelivered { problem, event: None, coding: None })
        })?;
        match self.check_age(&event) {
            Ok(()) => Ok((event, value)),
            Err(problem) => Err(Box::new(Undelivered { problem, event: Some((event, value)), coding: None })),
        }
    }

    /// Boxed: hardly an event is invalid, and the future of every request would have room for it.
    fn deliver_invalid<'a>(
        &'a self,
        undelivered: Box<Undelivered<'a>>,
        whole: &'a Bytes,
        trace: Trace<'a>,
        mut receipt: Option<Receipt>,
    ) -> Pin<Box<dyn Future<Output = Result<Accepted, Problem>> + Send + 'a>> {
        Box::pin(async move {
            let Undelivered { problem, event, coding } = *undelivered;
            let (event, value) = match &event {
                Some((event, value)) => (Some(event), value),
                None => (None, whole),
            };
            let invalid = Invalid { problem, event, value, content_encoding: coding.as_deref(), trace };
            let delivered = self.pipeline.deliver_invalid(invalid, receipt.as_mut()).await?;
            Ok(Accepted { delivered, receipt })
        })
    }

    /// Rejects an event that is older than events may be. One without a time has no age.
    fn check_age(&self, event: &Event<'_>) -> Result<(), Problem> {
        let (Some(most), Some(timestamp)) = (self.max_event_age, event.timestamp) else { return Ok(()) };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = i128::try_from(now.as_millis()).unwrap_or(i128::MAX) - i128::from(timestamp);
        if age <= i128::try_from(most.as_millis()).unwrap_or(i128::MAX) {
            return Ok(());
        }
        let detail = format!(
            "the event's timestamp is {} s ago, and events may be {} s old; raise \
             spec.source.webhook.maxEventAgeSeconds (limits.maxEventAgeMs in relay.yaml), or correct the sender's clock",
            age / 1000,
            most.as_secs()
        );
        Err(Problem::new(ProblemKind::EventTooOld, detail))
    }

    fn check_head(&self, head: Parts) -> Result<CheckedHead<S::Proof>, Problem> {
        if !self.paths.iter().any(|path| path == head.uri.path()) {
            let newest = self.paths.first().map(String::as_str).unwrap_or_default();
            let detail = format!("{} is not served here; post events to {newest}", escaped(head.uri.path()));
            return Err(Problem::new(ProblemKind::UnknownPath, detail));
        }
        if head.method != Method::POST {
            return Err(Problem::new(ProblemKind::MethodNotAllowed, "post the event"));
        }
        let length = announced_length(&head.headers);
        self.body.check_length(length)?;
        let proof = self.source.check_head(&head)?;
        let encoded = match check_encoding(&head.headers) {
            Ok(()) => None,
            Err(problem) if self.pipeline.keeps_invalid() => {
                Some(Encoded { coding: content_encoding(&head.headers), problem })
            }
            Err(problem) => return Err(problem),
        };
        let length = length.and_then(NonZeroUsize::new);
        let wants_receipt = self.source.wants_receipt(&head);
        let is_uncommon = wants_receipt || encoded.is_some();
        let uncommon = is_uncommon.then(|| Box::new(Uncommon { wants_receipt, encoded }));
        Ok(CheckedHead { proof, length, uncommon })
    }

    /// Logs a request that is rejected before the pipeline has its event, which logs all later ones.
    fn rejected(&self, problem: Problem, trace: &TraceHeaders) -> Problem {
        self.log.rejected(&problem, trace.as_trace());
        problem
    }
}

fn accepted(delivered: Delivered) -> Response<Full<Bytes>> {
    json(Bytes::from_static(if delivered == Delivered::Filtered { FILTERED } else { PROCESSED }))
}

fn accepted_with(delivered: Delivered, receipt: &Receipt) -> Response<Full<Bytes>> {
    // A receipt always serialises; if it did not, the event would be in Kafka all the same.
    let Ok(body) = serde_json::to_vec(receipt) else { return accepted(delivered) };
    let mut response = json(body.into());
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static(PREFERENCE));
    response
}

fn json(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Rejects an encoded body. The relay publishes the bytes that were signed, and a consumer expects JSON.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(CONTENT_ENCODING) {
        let codings = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        for coding in codings {
            if !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity") {
                let coding = escaped(&String::from_utf8_lossy(coding));
                let detail = format!(
                    "the Content-Encoding {coding} is not supported; send the body without an encoding"
                );
                return Err(Problem::new(ProblemKind::EncodingUnsupported, detail));
            }
        }
    }
    Ok(())
}

/// The content encoding as the sender names it.
fn content_encoding(headers: &HeaderMap) -> String {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let values: Vec<_> = values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ")
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::RequestBody;
    use crate::kafka;
    use crate::source::api_destination::ApiDestination;
    use crate::source::presence_definitions::PresenceDefinitions;
    use crate::source::secrets::{SecretKind, Secrets};
    use crate::source::webhook::Webhook;
    use hmac::{Hmac, KeyInit, Mac};
    use http_body_util::BodyExt;
    use hyper::body::{Body, Frame};
    use presenceroute_core::relay_config::KafkaConfig;
    use presenceroute_core::routing::Router;
    use presenceroute_core::routing::RoutingTable;
    use presenceroute_runtime::follow;
    use sha2::Sha256;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll};

    const SIGNATURE: HeaderName = HeaderName::from_static("x-genesys-event-signature");

    /// A handler of a webhook whose Kafka cannot be reached.
    async fn handler() -> Handler<Webhook> {
        let kafka = KafkaConfig { bootstrap_servers: vec!["127.0.0.1:1".into()], ..KafkaConfig::default() };
        let limits = Limits::default();
        let metrics = Arc::new(Metrics::new());
        let (publisher, _) = kafka::start(kafka, limits.clone(), Arc::clone(&metrics)).await.unwrap();
        let routing = follow::fixed(Router::new(RoutingTable::parse("{t: topic}").unwrap()));
        let secret = Secrets::single(SecretKind::SigningSecret, "test", &"Jefe".into());
        let secrets = follow::fixed(secret.unwrap());
        let log = Arc::new(RequestLog::new(None));
        let pipeline = Pipeline::new(routing, publisher, Arc::clone(&metrics), Arc::clone(&log), None);
        let webhook = Webhook::new(SIGNATURE, secrets, metrics.authenticated.clone());
        Handler::new(vec!["/events".into()], webhook, &limits, Arc::new(pipeline), log, metrics)
    }

    #[tokio::test]
    async fn an_event_after_the_end_is_503_and_for_another_relay() {
        let handler = Arc::new(handler().await);
        handler.pipeline.close();
        let body = r#"{"id":"1","eventType":"t"}"#;
        let mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap().chain_update(body);
        let request = Request::post("/events")
            .header(SIGNATURE, hex::encode(mac.finalize().into_bytes()))
            .body(Full::<Bytes>::from(body))
            .unwrap();
        let answer = handler.answer(request).await;
        assert_eq!(
            (answer.status(), answer.headers()["retry-after"].as_bytes()),
            (503.try_into().unwrap(), &b"1"[..])
        );
        let problem = answer.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["type"], "urn:presenceroute:problem:shutting-down");
    }

    /// Without a connection.
    impl ProvenBody for Full<Bytes> {
        fn verified(&self) {}
    }

    /// A body of which nothing comes.
    #[derive(Clone, Default)]
    struct Silent(Arc<AtomicBool>);

    impl Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    impl ProvenBody for Silent {
        fn verified(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the connection of a request counts as a sender's while its body is still to come.
    async fn is_verified_before_its_body<S: PushSource>(handler: Handler<S>, header: HeaderName) -> bool {
        let body = Silent::default();
        let request = Request::post("/events").header(header, "Jefe").body(body.clone()).unwrap();
        let answer = pin!(Arc::new(handler).answer(request));
        assert!(futures::poll!(answer).is_pending());
        body.0.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn an_api_key_protects_its_connection_before_the_body_comes() {
        let Handler { pipeline, log, metrics, .. } = handler().await;
        let keys = follow::fixed(Secrets::single(SecretKind::ApiKey, "test", &"Jefe".into()).unwrap());
        let header = HeaderName::from_static("x-api-key");
        let names = follow::fixed(PresenceDefinitions::default());
        let destination = ApiDestination::new(header.clone(), keys, names, metrics.authenticated.clone());
        let paths = vec!["/events".into()];
        let destination = Handler::new(paths, destination, &Limits::default(), pipeline, log, metrics);
        assert!(is_verified_before_its_body(destination, header).await);
        // A signature proves nothing before there is a body.
        assert!(!is_verified_before_its_body(handler().await, SIGNATURE).await);
    }

    fn future_bytes<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Every connection keeps room for this future from its first request on, so its size is memory of each sender. It had
    /// 1968 bytes when this was written.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let bytes = future_bytes(Handler::<Webhook>::answer::<RequestBody>);
        println!("FUTURE {bytes}");
        assert!(bytes <= 1968, "{bytes}");
    }
}
