//! Why a reconcile could not go through. Every variant is tried again, with backoff.

use presenceroute_manifest::build::BuildError;

use crate::api_server::ApiServerError;
use crate::apply::ApplyError;

/// The causes. What Genesys Cloud fails at is a condition and no error.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server failed, or refused.
    #[error("the API server could not {what}: {source}")]
    Kubernetes {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        source: ApiServerError,
    },
    /// An object could not be written or deleted.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An object could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Says what the API server was asked when it failed.
pub fn kubernetes(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |error| ReconcileError::Kubernetes { what, source: error.into() }
}
