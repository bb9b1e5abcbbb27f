//! The relay: receives events over HTTP or from a queue, verifies and routes them, and publishes them to Kafka.
//!
//! Arrows run down only: [`http`] (connections, a request) → [`source`] (how an event proves its origin) → [`pipeline`]
//! (route, publish, log) → [`kafka`] (acknowledged by all in-sync replicas). [`outcome`] and [`observe`] are below all of
//! them. A 200 is a promise: every topic has acknowledged the event.

// A program: only its tests and the demo link it. A comment that repeats a name helps neither.
#![allow(missing_docs)]

pub mod admin;
#[cfg(any(feature = "amazon-sqs", feature = "kafka-msk-iam"))]
mod aws;
pub mod http;
pub mod kafka;
pub mod observe;
mod outbound;
pub mod outcome;
pub mod pipeline;
pub mod relay;
pub mod replay;
pub mod settings;
pub mod source;

pub use observe::spans::Spans;
pub use relay::{Relay, RunningRelay, StartError};
pub use settings::{Arguments, RoutingSource, SecretSource, Settings, SettingsError};
pub use source::secrets::{SecretKind, Secrets};
