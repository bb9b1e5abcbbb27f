//! The operator: it makes the cluster and Genesys Cloud hold what a `PresenceRoute` asks for, and says what is true.
//!
//! [`controller`] is the list of a reconcile's steps, each a module of its own. What a manifest means, without a cluster,
//! is the crate `presenceroute_manifest`; the client of Genesys Cloud is `presenceroute_genesys`.

pub mod admin;
pub mod api_server;
pub mod apply;
pub mod children;
pub mod cli;
mod context;
pub mod controller;
pub mod error;
pub mod events;
pub mod finalizer;
pub mod leader;
pub mod metrics;
pub mod reconcile_state;
pub mod registration;
pub mod relays;
pub mod route_index;
pub mod route_state;
pub mod secret_cache;
pub mod status;
mod watches;
