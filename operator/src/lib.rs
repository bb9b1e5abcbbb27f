//! The operator: it makes the cluster and Genesys Cloud hold what a `PresenceRoute` asks for, and says what is true.
//!
//! A reconcile runs in one direction, one module a step: [`dereference`], [`validate`], [`build`], [`apply`],
//! [`register`], [`status`]. What is pure is tested without a cluster; [`controller`] strings the steps together.

pub mod admin;
pub mod admission;
pub mod api_server;
pub mod apply;
pub mod build;
pub mod certificates;
pub mod check;
pub mod children;
pub mod claims;
pub mod cli;
pub mod controller;
pub mod dereference;
pub mod field;
pub mod genesys;
pub mod leader;
pub mod ledger;
pub mod manifest;
pub mod metrics;
pub mod register;
pub mod relays;
pub mod secret_cache;
pub mod signing;
pub mod status;
pub mod tls;
pub mod validate;
mod watches;
