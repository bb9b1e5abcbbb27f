//! What a `PresenceRoute` means, without a cluster: reading manifests, the API server's checks, the operator's checks,
//! and the Kubernetes objects that a valid route makes.
//!
//! Pure but for [`lint::command`] and [`policy::file`], which read files. The operator, the kubectl plugin and the demo share it.

pub mod admission;
pub mod build;
pub mod conflicts;
pub mod dereference;
pub mod document;
pub mod endpoint_change;
pub mod field;
pub mod kept_clients;
pub mod lint;
pub mod policy;
pub mod registration_name;
pub mod relay_defaults;
pub mod rotation;
pub mod validate;
