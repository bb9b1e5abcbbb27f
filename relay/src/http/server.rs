//! Connections: HTTP/1.1 and HTTP/2, with TLS or without, bounded in number, header size and time, and closed
//! gracefully.
//!
//! What a request means is the handler's part; the admin port is served the same way.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use super::body::ProvenBody;
use super::connections::{Activity, Connections, Entry, Unsent};
use super::fair_read::FairReader;
use super::tls::{HandshakeStream, Handshakes};
use crate::observe::request_log::RateLimitedLog;

/// The most bytes of a request's head; Genesys's have some hundred, and what proxies add is of that size. It is the least
/// that hyper takes, and its buffer of that size never grows then: an incomplete head costs no more than a complete one.
/// (With any more, it doubles already when the first bytes come by themselves.)
const MAX_HEAD_BYTES: usize = 8 << 10;

/// The most requests that one HTTP/2 connection has open.
const MAX_STREAMS: u32 = 256;

/// The most bytes of one HTTP/2 connection that are received before they are read.
const MAX_UNREAD_BYTES: u32 = 1 << 20;

/// The same of one request.
const MAX_UNREAD_STREAM_BYTES: u32 = 256 << 10;

/// The most bytes of answers that an HTTP/2 connection holds for a sender that does not read them.
const MAX_UNSENT_BYTES: usize = 64 << 10;

/// How long the last connections may take to finish.
const CLOSE_WITHIN: Duration = Duration::from_secs(15);

/// When a listener stops.
#[derive(Clone, Default)]
pub struct Closing {
    /// Connections are asked to end: answers say so, new connections are still taken.
    pub drain: CancellationToken,
    /// Nothing new is taken, and what is open ends after its request.
    pub stop: CancellationToken,
}

/// Serves `listener` until it is stopped and every connection has ended. At most `most` connections are open at
/// once, and counted in `gauge`; one without a request for `idle_timeout` is closed.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<Handshakes>,
    closing: Closing,
    gauge: Gauge,
    most: usize,
    idle_timeout: Duration,
    handle: H,
) where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let builder = Arc::new(builder());
    let connections = Arc::new(Connections::new(most, idle_timeout, gauge));
    let watch = tokio::spawn(Arc::clone(&connections).close_idle());
    let drain = tokio::spawn(drain_when_asked(Arc::clone(&connections), closing.drain));
    let mut unaccepted = RateLimitedLog::default();
    loop {
        let accepted = tokio::select! {
            () = closing.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: one comes free when a connection ends.
                if let Some(count) = unaccepted.count() {
                    tracing::warn!(%error, count, "connections could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Where no connection can be closed for it, it waits here, and those behind it wait in the listener's queue.
        let permit = tokio::select! {
            () = closing.stop.cancelled() => break,
            permit = connections.permit() => permit,
        };
        // An answer is one small write; waiting to fill a packet would only delay it.
        let _ = stream.set_nodelay(true);
        let builder = Arc::clone(&builder);
        let (handle, tls, stop) = (handle.clone(), tls.clone(), closing.stop.clone());
        connections.spawn(permit, move |entry| async move {
            let Some(stream) = begin(stream, tls, &stop).await else { return };
            let service = service_fn(|request| answer(&entry, request, &handle));
            let stream = TokioIo::new(FairReader::new(stream, entry.activity().linger_on_close()));
            let connection = pin!(builder.serve_connection(stream, service));
            if let Err(error) = until_its_end(connection, entry.activity()).await {
                tracing::debug!(error, "a connection ended early");
            }
        });
    }
    drop(listener);
    connections.stop();
    if tokio::time::timeout(CLOSE_WITHIN, connections.ended()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    watch.abort();
    drain.abort();
}

/// Tells the connections when the drain begins.
async fn drain_when_asked(connections: Arc<Connections>, drain: CancellationToken) {
    drain.cancelled().await;
    connections.drain();
}

/// Answers a request, and adapts the response to the connection's protocol.
fn answer<H, F>(
    entry: &Entry,
    request: Request<Incoming>,
    handle: &H,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<H, F>
where
    H: Fn(Request<RequestBody>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let version = request.version();
    let open = entry.begin(version);
    let connection = Arc::clone(open.activity());
    let answer = handle(request.map(|body| RequestBody { body, connection }));
    async move {
        let mut response = answer.await;
        let mut unsent = None;
        if version > Version::HTTP_11 {
            unsent = Some(open.hold_answer());
            // HTTP/2 has no such field (RFC 9113, section 8.2.2).
            response.headers_mut().remove(CONNECTION);
        } else if response.headers().contains_key(CONNECTION) {
            open.closes_early();
        }
        let is_draining = open.end(response.status());
        if version <= Version::HTTP_11 && is_draining {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Answer::new(body, unsent)))
    }
}

/// Runs a connection until it has ended, by itself or because it was told to.
async fn until_its_end<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
) -> Result<(), C::Error> {
    let mut is_told = false;
    poll_fn(|context| {
        let polled = connection.as_mut().poll(context);
        if polled.is_ready() || is_told || !activity.is_to_end(context) {
            return polled;
        }
        is_told = true;
        connection.as_mut().graceful_shutdown();
        connection.as_mut().poll(context)
    })
    .await
}

/// The connection as HTTP is spoken on it, or nothing where TLS was wanted and failed.
async fn begin(
    stream: TcpStream,
    tls: Option<Handshakes>,
    stop: &CancellationToken,
) -> Option<Either<TcpStream, Box<TlsStream<HandshakeStream>>>> {
    match tls {
        None => Some(Either::Left(stream)),
        Some(tls) => stop.run_until_cancelled(tls.accept(stream)).await.flatten().map(Either::Right),
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // The idle timeout of connections bounds how long a head may take, without a timer for each request.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        // A sender that closes its side when it has sent everything still gets its answer.
        .half_close(true)
        // An answer is so small that copying it into one piece costs less than writing two.
        .writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(MAX_UNREAD_BYTES)
        .initial_stream_window_size(MAX_UNREAD_STREAM_BYTES)
        .max_send_buf_size(MAX_UNSENT_BYTES)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// The body of a request, and the connection that it comes by.
pub struct RequestBody {
    body: Incoming,
    connection: Arc<Activity>,
}

impl ProvenBody for RequestBody {
    fn verified(&self) {
        self.connection.verified();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        pin!(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response, which counts as unsent until the connection has taken it. HTTP/2 takes it when its sender lets
/// it through; until then it keeps its stream in memory.
struct Answer {
    body: Full<Bytes>,
    _unsent: Option<Unsent>,
}

impl Answer {
    fn new(body: Full<Bytes>, unsent: Option<Unsent>) -> Self {
        Self { body, _unsent: unsent }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        pin!(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
