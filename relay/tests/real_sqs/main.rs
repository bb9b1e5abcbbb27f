//! The relay on a real queue server (ElasticMQ) and a real Apache Kafka: what it promises of a queue, while brokers hang
//! and calls fail; and on moto, which checks signatures and rights. Not part of `cargo test`; `tests/run --only sqs` runs
//! it, or:
//!
//! ```text
//! export PRESENCEROUTE_KAFKA_PORT=19292 PRESENCEROUTE_SQS_PORT=19334 PRESENCEROUTE_MOTO_PORT=19335    # of its own
//! export PRESENCEROUTE_HOST_FROM_PODS=127.0.0.1
//! tests/harness/kafka up --brokers 3 --secured && eval "$(tests/harness/kafka env)"
//! tests/harness/sqs up && eval "$(tests/harness/sqs env)"
//! tests/harness/moto up && eval "$(tests/harness/moto env)"
//! cargo test -p presenceroute-relay --test real_sqs
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod authentication;
// Those of the tests that have Kafka alone.
#[allow(dead_code)]
#[path = "../real_kafka/cluster.rs"]
mod cluster;
mod faults;
mod flow;
mod moto;
mod proxy;
mod queue;
#[path = "../support/mod.rs"]
mod support;
