//! Registration at Genesys Cloud, against the simulator over real HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

#[allow(dead_code, reason = "the tests of the client use the rest")]
#[path = "../../../genesys/tests/client/authority.rs"]
mod authority;
mod executor;
mod fault_table;
mod integration;
mod network;
#[allow(dead_code, reason = "the tests of the client use the rest")]
#[path = "../../../genesys/tests/client/organisation.rs"]
mod organisation;
mod route;
