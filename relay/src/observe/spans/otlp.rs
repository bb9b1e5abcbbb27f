//! Spans by the OpenTelemetry SDK, exported by OTLP over HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use presenceroute_core::event::Event;
use tokio::runtime::Handle;

use crate::observe::trace_context::Trace;
use crate::outcome::Outcome;

/// The service name, unless [`SERVICE_NAME`] or the resource's attributes say otherwise.
const DEFAULT_SERVICE: &str = "presenceroute-relay";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// Makes spans and sends them.
pub struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Why there are no spans although a collector is named.
#[derive(Debug, thiserror::Error)]
pub enum SpansError {
    /// The variables of OpenTelemetry do not fit together.
    #[error("spans cannot be exported: {0}; check the variables OTEL_EXPORTER_OTLP_*")]
    Exporter(#[from] ExporterBuildError),
    #[error("spans cannot be exported: {0}")]
    Http(#[from] reqwest::Error),
}

impl Spans {
    /// Spans for the collector that the standard variables name, where they name one. Needs a tokio runtime.
    pub fn from_environment() -> Result<Option<Self>, SpansError> {
        if !super::is_collector_named() {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().with_http_client(Collector::new()?).build()?;
        Ok(Some(Self::exporting(exporter)))
    }

    /// Spans for the collector at this URL, such as `http://collector:4318/v1/traces`. Needs a tokio runtime.
    pub fn to(url: &str) -> Result<Self, SpansError> {
        let client = Collector::new()?;
        let exporter =
            SpanExporter::builder().with_http().with_http_client(client).with_endpoint(url).build()?;
        Ok(Self::exporting(exporter))
    }

    fn exporting(exporter: SpanExporter) -> Self {
        let resource = Resource::builder();
        let resource = match std::env::var(SERVICE_NAME) {
            Ok(_) => resource,
            Err(_) => resource.with_service_name(DEFAULT_SERVICE),
        };
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Self { tracer: provider.tracer(DEFAULT_SERVICE), provider }
    }

    /// Begins the span of a verified event whose request came at `since`, under the span that its sender names.
    pub fn begin(&self, event: &Event<'_>, trace: Trace<'_>, since: SystemTime) -> Box<EventSpan> {
        let parent = match remote(trace) {
            Some(sender) => Context::new().with_remote_span_context(sender),
            None => Context::new(),
        };
        let builder = SpanBuilder::from_name("POST event")
            .with_kind(SpanKind::Server)
            .with_start_time(since)
            .with_attributes([
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("cloudevents.event_id", event.id.to_string()),
                KeyValue::new("cloudevents.event_type", event.event_type.to_string()),
            ]);
        let span = self.tracer.build_with_context(builder, &parent);
        let context = span.span_context();
        let traceparent = context.is_sampled().then(|| {
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
        });
        // Boxed, so that a request without a span costs no memory for it.
        Box::new(EventSpan { span, traceparent })
    }

    /// Sends what has not been sent yet; blocks for as long as that takes.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// The sender's span, as its headers name it.
fn remote(trace: Trace<'_>) -> Option<SpanContext> {
    let mut parts = trace.parent?.split('-').skip(1);
    let context = SpanContext::new(
        TraceId::from_hex(parts.next()?).ok()?,
        SpanId::from_hex(parts.next()?).ok()?,
        TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?) & TraceFlags::SAMPLED,
        true,
        trace.state.and_then(|state| state.parse().ok()).unwrap_or(TraceState::NONE),
    );
    context.is_valid().then_some(context)
}

/// The span of one event.
pub struct EventSpan {
    span: Span,
    /// What names it, when it is one of those that are sent.
    traceparent: Option<String>,
}

impl EventSpan {
    /// The trace context that goes with the record: this span, or what came when this one is not sent.
    pub fn trace<'a>(&'a self, came: Trace<'a>) -> Trace<'a> {
        Trace { parent: self.traceparent.as_deref().or(came.parent), state: came.state }
    }

    pub fn end(mut self: Box<Self>, outcome: Outcome) {
        let status = outcome.status();
        self.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        self.span.set_attribute(KeyValue::new("presenceroute.outcome", outcome.name()));
        if status.is_server_error() {
            self.span.set_status(Status::error(outcome.name()));
        }
        self.span.end();
    }
}

/// The HTTP client for the collector. Exports run on a thread of the SDK, outside the runtime.
#[derive(Debug)]
struct Collector {
    http: reqwest::Client,
    runtime: Handle,
    is_failing: AtomicBool,
}

impl Collector {
    fn new() -> Result<Self, SpansError> {
        presenceroute_runtime::tls_provider::install_crypto_provider();
        let http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(10)).build()?;
        Ok(Self { http, runtime: Handle::current(), is_failing: AtomicBool::new(false) })
    }

    /// Logs when exports begin to fail and when they succeed again, not each time.
    fn note(&self, failure: Option<String>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => tracing::warn!(error, "the collector does not accept spans"),
            None if was_failing => tracing::info!("the collector accepts spans again"),
            _ => {}
        }
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        let sending = self.runtime.spawn(async move {
            // An error does not repeat the URL, which may hold a password.
            let mut response = http.execute(request).await.map_err(reqwest::Error::without_url)?;
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            Ok::<_, reqwest::Error>((status, headers, response.bytes().await?))
        });
        let sent = sending.await?;
        self.note(match &sent {
            Ok((status, ..)) if status.is_success() => None,
            Ok((status, ..)) => Some(format!("status {status}")),
            Err(error) => Some(error.to_string()),
        });
        let (status, headers, body) = sent?;
        let mut answer = http::Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}
