//! The relay: receives signed events over HTTP, verifies and routes them, and publishes them to Kafka.
//!
//! One direction, one module each: [`server`] (connections) → [`intake`] (path, method, size) → [`signature`] →
//! [`event`] → [`routing`] → [`publish`] → the answer, or a [`problem`]. A 200 is a promise: every topic has
//! acknowledged the event with all its in-sync replicas.

pub mod admin;
pub mod descriptors;
pub mod intake;
pub mod log;
mod memory;
pub mod metrics;
mod mounted;
pub mod preference;
pub mod problem;
pub mod publish;
pub mod relay;
pub mod reload;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod signature;
pub mod spans;
pub mod tls;

/// What an event is and where it goes: pure, and shared with what explains a table without a relay.
pub use presenceroute_core::{event, routing};
pub use relay::{Relay, RunningRelay, StartError};
pub use settings::{Arguments, RoutingSource, SecretSource, Settings, SettingsError};
