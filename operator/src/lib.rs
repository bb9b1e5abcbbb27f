//! The operator: makes the cluster and Genesys Cloud hold what a `PresenceRoute` asks for, and reports the state.
//!
//! [`controller`] is the list of a reconcile's steps, each a module of its own. What a manifest means, without a cluster,
//! is the crate `presenceroute_manifest`; the client of Genesys Cloud is `presenceroute_genesys`.

pub mod admin;
pub mod api_server;
pub mod apply;
pub mod cache;
pub mod cli;
pub mod condition_compiler;
mod context;
pub mod controller;
pub mod error;
pub mod events;
pub mod exposure;
pub mod finalizer;
pub mod leader;
pub mod metrics;
mod namespace_limits;
pub mod readiness_check;
pub mod reconcile_state;
pub mod registration;
pub mod relay_pods;
pub mod route_state;
mod run;
pub mod status;
pub mod text;
mod throttle;
mod watches;
