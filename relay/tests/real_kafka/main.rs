//! The relay on a real Apache Kafka of three brokers: what it promises of Kafka, while brokers hang and die and
//! credentials change. Not part of `cargo test`; `tests/run --only kafka` runs it, or:
//!
//! ```text
//! export PRESENCEROUTE_KAFKA_PORT=19192 PRESENCEROUTE_HOST_FROM_PODS=127.0.0.1    # a Kafka of its own
//! tests/harness/kafka up --brokers 3 --secured && eval "$(tests/harness/kafka env)"
//! cargo test -p presenceroute-relay --test real_kafka
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![allow(clippy::print_stdout, reason = "what was measured is for people")]

mod cluster;
mod credentials;
mod faults;
mod oauth;
mod refusals;
mod replay;
mod rolling_restart;
mod rotation;
mod sender;
#[path = "../support/mod.rs"]
mod support;
mod throttling;
