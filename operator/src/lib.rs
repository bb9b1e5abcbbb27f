//! The operator: makes the cluster and Genesys Cloud hold what a `PresenceRoute` asks for, and reports the state.
//!
//! A reconcile runs in one direction, one module a step: [`dereference`], [`validate`], [`build`], [`apply`],
//! [`register`], [`status`]. What is pure is tested without a cluster; [`controller`] strings the steps together.

pub mod admin;
pub mod api_server;
pub mod apply;
pub mod cache;
pub mod cli;
pub mod controller;
pub mod leader;
pub mod ledger;
pub mod metrics;
pub mod register;
pub mod relay_pods;
mod run;
pub mod status;
mod watches;
