//! From a request to its answer: path, method, size, signature, event, routing, publishing, in this order.
//!
//! [`Intake::answer`] is the whole contract as one function, generic over the body, so that it can be driven
//! without a connection. How a request proves where it comes from and becomes an event is in one place
//! ([`Intake::authenticate`], [`Event::parse`]), so that another way in needs no change to routing or publishing.

mod held;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::poll;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use presenceroute_core::receipt::{PREFERENCE, Receipt};
use presenceroute_core::relay_config::RelayConfig;
use presenceroute_core::routing::RejectStatus;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::event::Event;
use crate::log::Outcomes;
use crate::metrics::{Metrics, Reason, seconds};
use crate::preference::{self, PREFERENCE_APPLIED};
use crate::problem::{Kind, Problem, shown};
use crate::publish::{Publisher, Record, Trace, TraceHeaders};
use crate::reload::Loaded;
use crate::routing::{Decision, Router};
use crate::secrets::Secrets;
use crate::signature::Signature;
use crate::spans::Spans;
use held::{Held, REQUEST_BYTES, Reservation};

/// The body of a 200.
const PROCESSED: &[u8] = br#"{"status":"processed"}"#;

/// The most memory that is set aside because a sender announced that much.
const BELIEVED_LENGTH: usize = 16 << 10;

/// What answers requests. All connections share one.
pub struct Intake {
    path: String,
    signature_header: HeaderName,
    max_body_bytes: usize,
    body_timeout: Duration,
    routing: watch::Receiver<Loaded<Router>>,
    secrets: watch::Receiver<Loaded<Secrets>>,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    outcomes: Arc<Outcomes>,
    spans: Option<Arc<Spans>>,
    held: Held,
    closed: AtomicBool,
}

impl Intake {
    /// An intake with checked settings.
    pub fn new(
        config: &RelayConfig,
        signature_header: HeaderName,
        routing: watch::Receiver<Loaded<Router>>,
        secrets: watch::Receiver<Loaded<Secrets>>,
        publisher: Arc<Publisher>,
        metrics: Arc<Metrics>,
        spans: Option<Arc<Spans>>,
    ) -> Self {
        let limits = &config.limits;
        Self {
            path: config.path.clone(),
            signature_header,
            max_body_bytes: limits.max_body_bytes,
            body_timeout: Duration::from_millis(limits.body_timeout_ms),
            held: Held::new(limits.max_in_flight_bytes, metrics.in_flight_bytes.clone()),
            closed: AtomicBool::new(false),
            routing,
            secrets,
            publisher,
            metrics,
            outcomes: Arc::new(Outcomes::new(config.route.clone())),
            spans,
        }
    }

    /// What says in the log how requests were answered.
    pub fn outcomes(&self) -> Arc<Outcomes> {
        Arc::clone(&self.outcomes)
    }

    /// Refuses what still comes: the relay is about to end.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The answer to one request. Its head is done with at once, and is no part of what waits for the body and for Kafka:
    /// a connection keeps room for that from its first request on.
    pub fn answer<B>(
        self: Arc<Self>,
        request: Request<B>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<B>
    where
        B: Body<Data = Bytes>,
    {
        let (head, body) = request.into_parts();
        let trace = TraceHeaders::of(&head.headers);
        let asks_first = head.headers.contains_key(EXPECT);
        let admitted = self.admit(head);
        async move { self.finish(admitted, body, asks_first, &trace).await }
    }

    async fn finish<B>(
        &self,
        admitted: Result<Admitted, Problem>,
        body: B,
        asks_first: bool,
        trace: &TraceHeaders,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let trace = trace.as_trace();
        let mut body = pin!(body);
        let taken = match admitted {
            Ok(admitted) => self.process(admitted, body.as_mut(), trace).await,
            Err(problem) => Err(problem),
        };
        let (reason, response) = match taken {
            Ok(Accepted { reason, receipt: None }) => (reason, processed()),
            Ok(Accepted { reason, receipt: Some(receipt) }) => (reason, processed_with(&receipt)),
            Err(problem) => {
                self.outcomes.refused(&problem, trace);
                let kind = problem.kind;
                let mut response = problem.into_response();
                // A sender that asks whether to send it has its answer, and would be told to when it is read.
                if kind.may_leave_the_body() && (asks_first || !is_over(body).await) {
                    // HTTP/1.1 has no other way past the rest of it. A sender that was not told would send its next
                    // event into a connection that is being closed.
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                (Reason::Refused(kind), response)
            }
        };
        self.metrics.answered(reason);
        response
    }

    async fn process<B>(
        &self,
        admitted: Admitted,
        body: Pin<&mut B>,
        trace: Trace<'_>,
    ) -> Result<Accepted, Problem>
    where
        B: Body<Data = Bytes>,
    {
        let since = self.spans.as_ref().map(|_| SystemTime::now());
        let mut reservation = self.held.reserve();
        reservation.grow(REQUEST_BYTES)?;
        let body = self.read(body, admitted.length, &mut reservation).await?;
        let begun = Instant::now();
        self.authenticate(&admitted.signature, &body)?;
        let event =
            Event::parse(&body).map_err(|error| Problem::new(Kind::EventInvalid, error.to_string()))?;
        let span = self.spans.as_ref().zip(since).map(|(spans, since)| spans.begin(&event, trace, since));
        let trace = span.as_ref().map_or(trace, |span| span.trace(trace));
        let record = Record { event: &event, body: &body, trace, unrouted_by: None };
        let mut receipt = admitted.wants_receipt.then(Receipt::default);
        let carried = self.carry(record, receipt.as_mut(), begun).await;
        if let Ok(reason) = carried {
            self.outcomes.taken(reason, &event.id, trace);
        }
        if let Some(span) = span {
            span.end(carried.as_ref().map_or_else(|problem| Reason::Refused(problem.kind), |reason| *reason));
        }
        match carried {
            Ok(reason) => Ok(Accepted { reason, receipt }),
            Err(problem) => Err(problem.about(&event.id)),
        }
    }

    /// Routes and publishes an event that was verified, for which work has `begun`.
    async fn carry(
        &self,
        record: Record<'_>,
        receipt: Option<&mut Receipt>,
        begun: Instant,
    ) -> Result<Reason, Problem> {
        let router = self.router()?;
        let routed = router.route(record.event);
        if routed.failed_conditions > 0 {
            self.metrics.failed_conditions.inc_by(routed.failed_conditions);
        }
        let decided = Instant::now();
        self.metrics.stages.verify.observe(seconds(decided.duration_since(begun)));
        match routed.decision {
            Decision::Publish(targets) => {
                self.still_open()?;
                self.publisher.publish(record, &targets, decided, receipt).await?;
                Ok(Reason::Processed)
            }
            Decision::DeadLetter(target) => {
                self.still_open()?;
                let record = Record { unrouted_by: Some(router.table().revision()), ..record };
                self.publisher.publish(record, &[target], decided, receipt).await?;
                Ok(Reason::DeadLettered)
            }
            Decision::Drop => Ok(Reason::Dropped),
            Decision::Reject(status) => Err(unrouted(status, record.event)),
        }
    }

    /// What the head of a request decides, and what of it is needed later. The head itself does not outlive this:
    /// it holds on to the memory that it was read into.
    fn admit(&self, head: Parts) -> Result<Admitted, Problem> {
        if head.uri.path() != self.path {
            let detail =
                format!("{} is not served here; post events to {}", shown(head.uri.path()), self.path);
            return Err(Problem::new(Kind::UnknownPath, detail));
        }
        if head.method != Method::POST {
            return Err(Problem::new(Kind::MethodNotAllowed, "post the event"));
        }
        let length = announced_length(&head.headers);
        if length.is_some_and(|length| length > self.max_body_bytes) {
            return Err(self.too_large());
        }
        let Some(signature) = head.headers.get(&self.signature_header) else {
            let detail = format!("send the body's HMAC-SHA256 in the header {}", self.signature_header);
            return Err(Problem::new(Kind::SignatureMissing, detail));
        };
        Ok(Admitted {
            signature: Signature::read(signature.as_bytes()),
            length,
            wants_receipt: preference::wants_receipt(&head.headers),
        })
    }

    /// Nothing more is handed to Kafka once the relay waits for what it has.
    fn still_open(&self) -> Result<(), Problem> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Problem::new(Kind::ShuttingDown, "send the event again; another relay takes it"));
        }
        Ok(())
    }

    /// Whether the body was signed with an active secret.
    fn authenticate(&self, signature: &Signature, body: &[u8]) -> Result<(), Problem> {
        let Some(secrets) = self.secrets.borrow().current.clone() else {
            return Err(Problem::new(Kind::NotConfigured, "no signing secret has been loaded; see /status"));
        };
        if signature.verifies(secrets.keys(), body) {
            self.metrics.authenticated.inc();
            return Ok(());
        }
        Err(Problem::new(
            Kind::SignatureMismatch,
            "the signature is not the lowercase-hex HMAC-SHA256 of the body under any active secret; check that \
             both sides have the same secret and that nothing on the way changes the body",
        ))
    }

    fn router(&self) -> Result<Arc<Router>, Problem> {
        let current = self.routing.borrow().current.clone();
        current
            .ok_or_else(|| Problem::new(Kind::NotConfigured, "no routing table has been loaded; see /status"))
    }

    fn too_large(&self) -> Problem {
        let detail = format!("an event has at most {} bytes; raise limits.maxBodyBytes", self.max_body_bytes);
        Problem::new(Kind::BodyTooLarge, detail)
    }

    /// The whole body, within its size and its time.
    async fn read<B>(
        &self,
        body: Pin<&mut B>,
        length: Option<usize>,
        reservation: &mut Reservation<'_>,
    ) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes>,
    {
        let mut reading = pin!(self.read_all(body, length, reservation));
        // Most often it came together with the head. A clock is not read and a timer not set for that.
        if let Poll::Ready(read) = poll!(&mut reading) {
            return read;
        }
        match timeout(self.body_timeout, reading).await {
            Ok(read) => read,
            Err(_) => {
                let detail = format!("the body was not whole after {} ms", self.body_timeout.as_millis());
                Err(Problem::new(Kind::BodyTimeout, detail))
            }
        }
    }

    async fn read_all<B>(
        &self,
        mut body: Pin<&mut B>,
        length: Option<usize>,
        reservation: &mut Reservation<'_>,
    ) -> Result<Bytes, Problem>
    where
        B: Body<Data = Bytes>,
    {
        // A copy of just this size: what arrives lies in a connection's buffer, which is larger and is needed again.
        let mut whole = Vec::new();
        loop {
            let frame = match poll!(body.frame()) {
                Poll::Ready(frame) => frame,
                Poll::Pending => reservation.wait_for(body.frame()).await?,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| {
                Problem::new(
                    Kind::BodyIncomplete,
                    "the connection failed before the body was whole; send it again",
                )
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > self.max_body_bytes {
                return Err(self.too_large());
            }
            let needed = whole.len() + data.len();
            let room = room_for(needed, whole.capacity(), length, self.max_body_bytes);
            reservation.make_room(&mut whole, room)?;
            whole.extend_from_slice(&data);
        }
        reservation.settle(whole.len())?;
        Ok(Bytes::from(whole.into_boxed_slice()))
    }
}

/// Takes what has come of a body that nobody wants, and whether that was all of it.
async fn is_over<B>(mut body: Pin<&mut B>) -> bool
where
    B: Body<Data = Bytes>,
{
    while !body.is_end_stream() {
        match poll!(body.frame()) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => return true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => return false,
        }
    }
    true
}

/// How much room a body is given that needs more than the `known` one: twice as much each time, so that it is not copied
/// with each of its pieces, but no more than the sender announced or an event may have.
fn room_for(needed: usize, known: usize, announced: Option<usize>, most: usize) -> usize {
    if needed <= known {
        return known;
    }
    let believed = announced.unwrap_or_default().min(BELIEVED_LENGTH);
    needed.max(believed.max(2 * known).min(announced.unwrap_or(most)))
}

/// What is kept of a request's head.
struct Admitted {
    signature: Signature,
    /// The length that the sender announced.
    length: Option<usize>,
    /// Whether the sender asked where Kafka has its event.
    wants_receipt: bool,
}

/// What became of an event that is answered 200.
struct Accepted {
    reason: Reason,
    /// Where it is now, for a sender that asked.
    receipt: Option<Receipt>,
}

fn processed() -> Response<Full<Bytes>> {
    json(Bytes::from_static(PROCESSED))
}

fn processed_with(receipt: &Receipt) -> Response<Full<Bytes>> {
    // It has nothing that JSON cannot hold; were it so, the event is in Kafka all the same.
    let Ok(body) = serde_json::to_vec(receipt) else { return processed() };
    let mut response = json(body.into());
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static(PREFERENCE));
    response
}

fn json(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn unrouted(status: RejectStatus, event: &Event<'_>) -> Problem {
    let kind = match status {
        RejectStatus::NotFound => Kind::Unrouted,
        RejectStatus::BadRequest => Kind::UnroutedRetry,
    };
    Problem::new(
        kind,
        format!("no route matches the event type {}; add one to the table", shown(&event.event_type)),
    )
}

fn announced_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmac::{Hmac, KeyInit, Mac};
    use presenceroute_core::routing::RoutingTable;
    use sha2::Sha256;

    const MOST: usize = 1 << 20;

    /// An intake whose Kafka nobody reaches.
    async fn intake() -> Intake {
        let config: RelayConfig =
            serde_saphyr::from_str("kafka: {bootstrapServers: ['127.0.0.1:1']}").unwrap();
        let metrics = Arc::new(Metrics::new());
        let making = Publisher::new(config.kafka.clone(), config.limits.clone(), Arc::clone(&metrics));
        let (publisher, _) = making.await.unwrap();
        let table = RoutingTable::parse("{t: topic}").unwrap();
        let routing = watch::Sender::new(Loaded::fixed(Router::new(table))).subscribe();
        let secrets = Secrets::single("test", &"Jefe".into()).unwrap();
        let secrets = watch::Sender::new(Loaded::fixed(secrets)).subscribe();
        let header = HeaderName::from_static("x-genesys-event-signature");
        Intake::new(&config, header, routing, secrets, publisher, metrics, None)
    }

    #[tokio::test]
    async fn an_event_that_comes_after_the_end_is_503_and_for_another_relay() {
        let intake = Arc::new(intake().await);
        intake.close();
        let body = r#"{"id":"1","eventType":"t"}"#;
        let mac = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap().chain_update(body);
        let request = Request::post("/eventbridge/presence")
            .header(&intake.signature_header, hex::encode(mac.finalize().into_bytes()))
            .body(Full::<Bytes>::from(body))
            .unwrap();
        let answer = Arc::clone(&intake).answer(request).await;
        assert_eq!(
            (answer.status(), answer.headers()["retry-after"].as_bytes()),
            (503.try_into().unwrap(), &b"1"[..])
        );
        let problem = answer.into_body().collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
        assert_eq!(problem["type"], "urn:presenceroute:problem:shutting-down");
        assert_eq!(intake.publisher.in_flight(), 0);
    }

    #[test]
    fn a_body_gets_twice_the_room_each_time() {
        let mut room = 0;
        for (needed, given) in [(10, 16 << 10), (20 << 10, 32 << 10), (60 << 10, 64 << 10)] {
            room = room_for(needed, room, Some(100_000), MOST);
            assert_eq!(room, given);
        }
    }

    #[test]
    fn a_body_gets_no_more_room_than_was_announced_or_than_an_event_may_have() {
        assert_eq!(room_for(100, 0, Some(600), MOST), 600);
        assert_eq!(room_for(100, 0, None, MOST), 100);
        assert_eq!(room_for(70_000, 65_536, Some(80_000), MOST), 80_000);
        assert_eq!(room_for(700_000, 600_000, None, MOST), MOST);
        assert_eq!(room_for(100, 600, Some(600), MOST), 600);
    }
}
