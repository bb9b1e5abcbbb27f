//! Accepts connections and serves them, one task a connection, so that a fault can close one of them
//! without an answer and a stop lets the others finish.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{Simulator, delivery};

/// How long requests in progress may take to finish after a stop.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// How long to wait after a failed accept, such as with too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// An extension of a response: the connection is closed instead of sending it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutConnection;

/// A simulator that listens. When this is dropped, the simulator serves until the runtime ends.
#[derive(Debug)]
pub struct Running {
    pub(crate) simulator: Simulator,
    pub(crate) address: SocketAddr,
    pub(crate) control_address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) servers: Vec<JoinHandle<()>>,
}

impl Running {
    /// The API's address, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The control API's address, which is the API's unless configured otherwise.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control_address
    }

    /// Accepts no more connections, stops every delivery, and returns once the requests in progress are
    /// answered, or after 5 seconds.
    pub async fn stop(self) {
        self.stop.cancel();
        delivery::stop_all(&self.simulator);
        for server in self.servers {
            // A server task that panicked or was aborted is stopped, too.
            let _ = server.await;
        }
    }
}

/// Serves `router` on `listener` until `stop`.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), &graceful));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    if tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not answered in time; closing their connections");
    }
    connections.shutdown().await;
}

/// Watched by `graceful` from now on; driven once polled.
fn connection(
    stream: TcpStream,
    router: Router,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + use<> {
    // Answers are small: waiting to fill a packet only adds latency.
    let _ = stream.set_nodelay(true);
    let cut = CancellationToken::new();
    let service = {
        let cut = cut.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            let (router, cut) = (router.clone(), cut.clone());
            async move {
                let Ok(response) = router.oneshot(request.map(Body::new)).await;
                if response.extensions().get::<CutConnection>().is_some() {
                    cut.cancel();
                    pending::<()>().await;
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let served = graceful.watch(
        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).into_owned(),
    );
    async move {
        tokio::select! {
            () = cut.cancelled() => {}
            result = served => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended early");
                }
            }
        }
    }
}
