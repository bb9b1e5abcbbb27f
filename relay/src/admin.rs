//! The admin port: liveness, readiness, metrics and status. It never shows a secret or a part of an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use presenceroute_core::relay_status::{
    RelayStatus, RoutingReport, SecretsReport, SignaturesReport, TlsReport,
};
use presenceroute_runtime::follow::Reloaded;
use tokio::sync::watch;

use crate::http::certificate::Certificate;
use crate::kafka::{ClusterReport, Publisher};
use crate::observe::labels::{CertificateLabel, RevisionLabel};
use crate::observe::metrics::Metrics;
use crate::observe::queue::Queue;
use crate::outcome::{Outcome, ProblemKind};
use crate::source::secrets::{SecretKind, Secrets};
use presenceroute_core::routing::Router;

/// The certificate of the port that events are posted to, in the metrics.
const LISTENER: CertificateLabel = CertificateLabel { certificate: "listener" };

/// Answers the requests of the admin port.
pub struct Admin {
    routing: watch::Receiver<Reloaded<Router>>,
    /// What senders prove themselves with, where the source has senders.
    secrets: Option<(SecretKind, watch::Receiver<Reloaded<Secrets>>)>,
    /// With TLS.
    certificate: Option<watch::Receiver<Reloaded<Certificate>>>,
    /// Where events are received from a queue.
    queue: Option<Arc<Queue>>,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    draining: AtomicBool,
}

impl Admin {
    /// An admin port for these parts.
    pub fn new(
        routing: watch::Receiver<Reloaded<Router>>,
        secrets: Option<(SecretKind, watch::Receiver<Reloaded<Secrets>>)>,
        certificate: Option<watch::Receiver<Reloaded<Certificate>>>,
        queue: Option<Arc<Queue>>,
        publisher: Arc<Publisher>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { routing, secrets, certificate, queue, publisher, metrics, draining: AtomicBool::new(false) }
    }

    /// From now on the relay is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// The response to one request.
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "use GET\n");
        }
        match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => self.ready(),
            "/metrics" => self.metrics(),
            "/status" => self.status_json(),
            _ => plain(StatusCode::NOT_FOUND, "/livez, /readyz, /metrics or /status\n"),
        }
    }

    /// What `/status` shows.
    pub fn status(&self) -> RelayStatus {
        let routing = self.routing.borrow();
        let ClusterReport { kafka, missing_topics, forbidden_topics } = self.publisher.report();
        RelayStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            routing: RoutingReport {
                revision: routing
                    .current
                    .as_ref()
                    .map(|router| router.table().revision().to_owned())
                    .unwrap_or_default(),
                routes: routing.current.as_ref().map_or(0, |router| router.table().routes().len()),
                error: routing.error.clone(),
            },
            secrets: self
                .secrets
                .as_ref()
                .map_or_else(SecretsReport::default, |(_, secrets)| Secrets::report(&secrets.borrow())),
            tls: self.certificate.as_ref().map(|certificate| {
                let loaded = certificate.borrow();
                TlsReport {
                    expires: loaded.current.as_ref().map(|current| current.expires_at()),
                    error: loaded.error.clone(),
                }
            }),
            signatures: SignaturesReport {
                accepted: self.metrics.authenticated.get(),
                refused: [ProblemKind::SignatureMismatch, ProblemKind::ApiKeyMismatch]
                    .into_iter()
                    .map(|kind| self.metrics.answers(Outcome::Rejected(kind)))
                    .sum(),
            },
            queue: self.queue.as_ref().map(|queue| queue.report()),
            kafka,
            missing_topics,
            forbidden_topics,
            in_flight: self.publisher.in_flight() as u64,
            draining: self.draining.load(Ordering::Acquire),
            log_level: presenceroute_runtime::log::level(),
        }
    }

    /// Ready, or every condition that fails, one a line.
    fn ready(&self) -> Response<Full<Bytes>> {
        let status = self.status();
        let mut failing = String::new();
        let mut fail = |what: &str, why: Option<String>| {
            failing.push_str(what);
            if let Some(why) = why {
                failing.push_str(": ");
                failing.push_str(&why);
            }
            failing.push('\n');
        };
        if status.draining {
            fail("draining", None);
        }
        if self.routing.borrow().current.is_none() {
            fail("no routing table", status.routing.error);
        }
        if let (Some((kind, _)), 0) = (&self.secrets, status.secrets.active) {
            fail(&format!("no {kind}"), status.secrets.error);
        }
        if let Some(TlsReport { expires: None, error }) = status.tls {
            fail("no certificate", error);
        }
        if let Some(queue) = status.queue.filter(|queue| !queue.readable) {
            match queue.error {
                Some(error) => fail("the queue cannot be read", Some(error)),
                None => fail("the queue has not been read yet", None),
            }
        }
        if !status.kafka.reachable {
            fail("Kafka is not reachable", status.kafka.error);
        }
        if failing.is_empty() {
            plain(StatusCode::OK, "ready\n")
        } else {
            plain(StatusCode::SERVICE_UNAVAILABLE, failing)
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        self.refresh_metrics();
        match self.metrics.encode() {
            Ok(text) => {
                let mut response = plain(StatusCode::OK, text);
                response.headers_mut().insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
                );
                response
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// Sets the gauges of states that are not kept up to date otherwise.
    fn refresh_metrics(&self) {
        let status = self.status();
        let metrics = &self.metrics;
        if let Some(queue) = &self.queue {
            queue.refresh();
        }
        metrics.routing_valid.set(i64::from(status.routing.error.is_none()));
        metrics.secrets_valid.set(i64::from(status.secrets.error.is_none()));
        metrics.secrets_active.set(i64::try_from(status.secrets.active).unwrap_or(i64::MAX));
        if let Some(certificate) = &self.certificate {
            let loaded = certificate.borrow();
            metrics.certificate_valid.get_or_create(&LISTENER).set(i64::from(loaded.error.is_none()));
            if let Some(current) = &loaded.current {
                metrics.certificate_expiry.get_or_create(&LISTENER).set(current.expires());
            }
        }
        metrics.routing_revision.clear();
        metrics.routing_revision.get_or_create(&RevisionLabel { revision: status.routing.revision }).set(1);
        metrics.secret_revision.clear();
        if let Some(revision) = status.secrets.revision {
            metrics.secret_revision.get_or_create(&RevisionLabel { revision }).set(1);
        }
    }

    fn status_json(&self) -> Response<Full<Bytes>> {
        match serde_json::to_vec(&self.status()) {
            Ok(json) => {
                let mut response = plain(StatusCode::OK, json);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
