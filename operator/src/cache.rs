//! The cluster as the watches describe it, so that a reconcile reads without asking the API server.
//!
//! Every cache is a [`listing`] of one kind of object and keeps of an object only what is read of it. Which watch fills
//! a cache, and which routes a change wakes, is left to the watches; what follows from the objects is left to the steps
//! of a reconcile.

pub mod key;
pub mod listing;
pub mod obstacle;
pub mod owned_objects;
pub mod pods;
pub mod ready;
pub mod routes;
pub mod secrets;

pub use key::{ObjectKey, RouteKey, version};
pub use owned_objects::OwnedObjects;
pub use pods::PodCache;
pub use ready::Stopped;
pub use routes::{RouteIndex, RouteOrInvalid};
pub use secrets::SecretCache;
