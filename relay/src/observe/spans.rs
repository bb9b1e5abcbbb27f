//! OpenTelemetry: a span for each event, sent to a collector by OTLP over HTTP. Off unless a collector is named.
//!
//! The standard variables say where to (`OTEL_EXPORTER_OTLP_ENDPOINT`), how many (`OTEL_TRACES_SAMPLER`) and under
//! which name (`OTEL_SERVICE_NAME`). Only an event whose signature was verified has a span, so that other senders
//! cannot fill a collector. The record's `traceparent` names the span, for consumers to continue the trace.
//!
//! Without the Cargo feature `otlp` there are no spans, and a collector that is named is an error.

#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
mod without_otlp;

#[cfg(feature = "otlp")]
pub use otlp::{EventSpan, Spans, SpansError};
#[cfg(not(feature = "otlp"))]
pub use without_otlp::{EventSpan, Spans, SpansError};

/// Where spans are sent; the second is the whole URL.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Whether the standard variables name a collector.
fn is_collector_named() -> bool {
    let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
    let is_disabled =
        std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.trim().eq_ignore_ascii_case("true"));
    !is_disabled && ENDPOINTS.into_iter().any(is_set)
}
