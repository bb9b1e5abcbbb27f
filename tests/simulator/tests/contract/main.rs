//! The simulator's contract over real HTTP, one file for each part.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod control;
mod delivery;
mod endpoint;
mod event_bus;
mod faults;
mod integrations;
mod organisation;
mod queues;
mod rate_limit;
mod registrations;
mod secrets;
mod start;
mod token;
