//! The operator's own HTTP port: `/livez`, `/readyz`, `/metrics`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Whether the process can do its work, leading or standing by: whether it waits for nothing.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<String>>>);

impl Readiness {
    /// Not ready until [`has`](Self::has) is called for the same.
    pub fn waits_for(&self, what: &str) {
        self.0.lock().insert(what.to_owned());
    }

    /// No longer waits for this.
    pub fn has(&self, what: &str) {
        self.0.lock().remove(what);
    }
}

/// Answers until `stop` resolves.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), std::io::Error> {
    axum::serve(listener, router(metrics, readiness)).with_graceful_shutdown(stop).await
}

/// The three paths.
pub fn router(metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(readiness)
        .route("/metrics", get(async move || text(metrics)))
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let missing = readiness.0.lock();
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    let missing: Vec<_> = missing.iter().map(String::as_str).collect();
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", ")))
}

fn text(metrics: Metrics) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text())
}
