//! What the relay shows of itself: metrics, one log line a request, and spans. Nothing here decides anything.

pub mod labels;
pub mod metrics;
pub mod queue;
pub mod request_log;
pub mod spans;
pub mod trace_context;
