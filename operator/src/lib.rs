//! The operator: makes the cluster and Genesys Cloud hold what a `PresenceRoute` asks for, and reports the state.
//!
//! A reconcile runs in one direction, one module a step: dereference, validate and build are pure and in
//! [`presenceroute_manifest`]; [`apply`], [`register`] and [`status`] follow. The [`controller`] puts the steps together,
//! on what the [`cache`] knows of the cluster.

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
