//! The operator: it makes the cluster and Genesys Cloud hold what a `PresenceRoute` asks for, and says what is true.
//!
//! A reconcile runs in one direction, one module a step: [`dereference`], [`validate`], [`build`], [`apply`],
//! [`register`], [`status`]. What is pure is tested without a cluster; [`controller`] strings the steps together.

pub mod admin;
pub mod api_server;
pub mod apply;
pub mod children;
pub mod cli;
pub mod controller;
pub mod leader;
pub mod ledger;
pub mod metrics;
pub mod register;
pub mod relays;
pub mod route_index;
pub mod secret_cache;
pub mod status;
mod watches;
