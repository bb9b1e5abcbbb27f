//! An endpoint with scripted answers that keeps what it received.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::response::AppendHeaders;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The sender's.
    pub(crate) port: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn signature(&self) -> Option<&str> {
        self.headers.get("x-genesys-event-signature").map(|value| value.to_str().unwrap())
    }
}

pub(crate) struct Endpoint {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<Received>>>,
    arrival: Arc<Notify>,
    server: JoinHandle<()>,
}

impl Endpoint {
    /// Answers these statuses in turn, and then always the last.
    pub(crate) async fn answering(statuses: impl Into<Vec<u16>>) -> Self {
        Self::answering_with(statuses, []).await
    }

    /// Likewise, with these headers.
    pub(crate) async fn answering_with<const N: usize>(
        statuses: impl Into<Vec<u16>>,
        answer_headers: [(&'static str, &'static str); N],
    ) -> Self {
        let statuses = statuses.into();
        let received = Arc::new(Mutex::new(Vec::new()));
        let arrival = Arc::new(Notify::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/eventbridge/presence", listener.local_addr().unwrap());
        let answer = {
            let (received, arrival) = (Arc::clone(&received), Arc::clone(&arrival));
            async move |ConnectInfo(sender): ConnectInfo<SocketAddr>, headers: HeaderMap, body: Bytes| {
                let mut received = received.lock();
                received.push(Received { port: sender.port(), headers, body });
                arrival.notify_waiters();
                let status = statuses[(received.len() - 1).min(statuses.len() - 1)];
                (StatusCode::from_u16(status).unwrap(), AppendHeaders(answer_headers))
            }
        };
        let router = Router::new().fallback(answer).into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, received, arrival, server }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// Waits until so many deliveries have arrived.
    pub(crate) async fn has_received(&self, count: usize) {
        loop {
            let arrival = self.arrival.notified();
            if self.received.lock().len() >= count {
                return;
            }
            arrival.await;
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}
