//! No spans: this relay is built without the Cargo feature `otlp`, so that none of these types has a value.

use std::time::SystemTime;

use presenceroute_core::event::Event;

use crate::observe::trace_context::Trace;
use crate::outcome::Outcome;

/// Makes spans and sends them.
pub enum Spans {}

/// The span of one event.
pub enum EventSpan {}

/// Why there are no spans although a collector is named.
#[derive(Debug, thiserror::Error)]
#[error(
    "OTEL_EXPORTER_OTLP_ENDPOINT names a collector, but this relay is built without the Cargo feature otlp; build it with \
     that feature, or set OTEL_SDK_DISABLED=true"
)]
pub struct SpansError;

impl Spans {
    /// No spans, or an error where the standard variables name a collector.
    pub fn from_environment() -> Result<Option<Self>, SpansError> {
        if super::is_collector_named() { Err(SpansError) } else { Ok(None) }
    }

    /// Begins the span of a verified event.
    pub fn begin(&self, _: &Event<'_>, _: Trace<'_>, _: SystemTime) -> Box<EventSpan> {
        match *self {}
    }

    /// Sends what has not been sent yet.
    pub fn shutdown(&self) {
        match *self {}
    }
}

impl EventSpan {
    /// The trace context that goes with the record.
    pub fn trace<'a>(&'a self, _: Trace<'a>) -> Trace<'a> {
        match *self {}
    }

    pub fn end(self, _: Outcome) {
        match self {}
    }
}
