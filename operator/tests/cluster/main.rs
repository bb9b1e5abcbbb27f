//! The operator on a real API server, the one that KUBECONFIG names. Not part of `cargo test`; run it with
//! `cargo test -p presenceroute-operator --test cluster`.
//!
//! The API server, its controllers and its garbage collector are real, Genesys Cloud is the simulator. The relay pods
//! are real objects that no node takes; what they report is [played](relays) from what they would have mounted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
#![allow(clippy::print_stdout, reason = "what was measured is for people")]

mod api_calls;
mod api_server;
mod causes;
mod changes;
mod defaults;
mod deletion;
mod events;
mod exposure;
mod gateway;
mod gitops;
mod hanging;
mod healing;
mod idle;
mod integration;
mod invalid_objects;
mod lagging;
mod large;
mod managers;
mod names;
mod namespaces;
mod objects;
mod operator;
mod policy;
mod process;
mod reading;
mod relays;
mod rights;
mod scale;
mod stage;
mod unverified;
