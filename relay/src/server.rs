//! Connections: HTTP/1.1 and HTTP/2, with TLS or without, bounded in number, header size and time, and closed gracefully.
//!
//! What a request means is the `intake` module's; the admin port is served the same way.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::tls::Handshakes;

/// The most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// The most header fields of a request.
const MAX_HEADERS: usize = 100;

/// How long a request's head may take, and how long a connection may idle. Longer than the idle time of common
/// proxies, so that they close first and never send into a connection that is being closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// The most connections at once; further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 16_384;

/// The most requests that one HTTP/2 connection has open.
const MAX_STREAMS: u32 = 256;

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

/// Serves `listener` until it is stopped and every connection has ended.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<Handshakes>,
    closing: Closing,
    connections: Gauge,
    handle: H,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let builder = Arc::new(builder());
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = closing.stop.cancelled() => break,
            accepted = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (stream, place) = match accepted {
            (Ok((stream, _)), place) => (stream, place),
            (Err(error), _) => {
                // Out of file descriptors, most likely: one comes free when a connection ends.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // An answer is one small write; waiting to fill a packet would only delay it.
        let _ = stream.set_nodelay(true);
        let builder = Arc::clone(&builder);
        let watcher = graceful.watcher();
        let connections = connections.clone();
        let handle = handle.clone();
        let tls = tls.clone();
        let Closing { drain, stop } = closing.clone();
        tokio::spawn(async move {
            let _place = place;
            connections.inc();
            let Some(stream) = begin(stream, tls, &stop).await else {
                connections.dec();
                return;
            };
            let service = service_fn(|request| {
                let version = request.version();
                let answer = handle(request);
                let drain = drain.clone();
                async move {
                    let mut response = answer.await;
                    if version <= Version::HTTP_11 && drain.is_cancelled() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(error, "a connection ended early");
            }
            connections.dec();
        });
    }
    drop(listener);
    if tokio::time::timeout(CLOSE_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
}

/// The connection as HTTP is spoken on it, or nothing where TLS was wanted and failed.
async fn begin(
    stream: TcpStream,
    tls: Option<Handshakes>,
    stop: &CancellationToken,
) -> Option<Either<TcpStream, Box<TlsStream<TcpStream>>>> {
    match tls {
        None => Some(Either::Left(stream)),
        Some(tls) => stop.run_until_cancelled(tls.accept(stream)).await.flatten().map(Either::Right),
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
