//! What a hostile or broken sender can do to a relay: to its memory, to its answers, and to the senders beside it.
//!
//! The relay is the real program in a process of its own, so that its memory can be read; Kafka is librdkafka's
//! mock cluster. The memory of each abuse stays below the limit that a relay pod has by default.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod echo;
mod http2;
mod large;
mod malformed;
mod order;
mod overload;
mod process;
mod slow;
