//! The environment variables that the relay reads as its own settings. A manifest sets these by fields of the spec, so
//! that a further variable of a pod cannot contradict the spec.

/// What the names of the relay's own variables begin with.
pub const PREFIX: &str = "PRESENCEROUTE_";
/// The brokers of a relay that runs without a configuration file.
pub const KAFKA_BROKERS: &str = "KAFKA_BROKERS";
/// The signing secret of a relay that runs without a directory of secrets.
pub const WEBHOOK_SECRET: &str = "GENESYS_WEBHOOK_SECRET";
/// The file with the names of presence definitions.
pub const PRESENCE_DEFINITIONS_FILE: &str = "PRESENCEROUTE_PRESENCE_DEFINITIONS_FILE";
/// OpenTelemetry's variables for the collector, the sampler, the sampler's ratio, and the resource that spans are of: what
/// `spec.relay.tracing` sets.
pub const TRACING: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_RESOURCE_ATTRIBUTES",
];

/// Whether the relay takes a setting of its own from the variable `name`.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(PREFIX) || [KAFKA_BROKERS, WEBHOOK_SECRET].contains(&name)
}
