//! What the operator and the relay agree on: events, the routing table and its conditions, and the relay's
//! configuration, status and receipts.
//!
//! Data and the rules over it. No Kubernetes types, no I/O.

pub mod allowed_hosts;
pub mod certificate_expiry;
pub mod condition;
pub mod event;
pub mod genesys_api;
mod json;
pub mod kafka_properties;
pub mod receipt;
pub mod region;
pub mod relay_config;
pub mod relay_environment;
pub mod relay_status;
pub mod routing;
pub mod source;
pub mod url;
