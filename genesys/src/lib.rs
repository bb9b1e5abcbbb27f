//! The client of the Genesys Cloud API.
//!
//! [`Genesys`] is what all routes share, [`Client`] one OAuth client of one organization, [`EventBridges`] the requests on
//! its registrations, and [`Integrations`] those on its integrations with Amazon EventBridge. Every request is bounded in
//! time and in the memory of its response, follows no redirect, goes only where the [`HostPolicy`] allows, is sent once
//! (but for one repetition with a new token after a 401, and one of an update for each version that others have written
//! meanwhile), and fails with a [`GenesysError`] that says what to do about it. What to ask for, when, and when to try
//! again is left to the caller.

pub mod client;
pub mod error;
pub mod event_bridges;
pub mod host_policy;
pub mod integrations;
pub mod paging;

mod auth;
mod cache;
mod memory;
mod organization;
mod rate_limit;
mod transport;

pub use client::{Access, Builder, Client, Genesys, Limits};
pub use error::GenesysError;
pub use event_bridges::{DesiredRegistration, Difference, EventBridges, ObservedRetryPolicy, Registration};
pub use host_policy::HostPolicy;
pub use integrations::{DesiredIntegration, Integration, IntegrationDifference, Integrations};
pub use paging::Listing;
