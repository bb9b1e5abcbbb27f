//! What the API server says when it will not do something, in words for people.

use std::fmt;

/// An error of the Kubernetes client, without its inner structure.
#[derive(Debug)]
pub struct ApiServerError(kube::Error);

impl ApiServerError {
    /// The HTTP status, when the API server gave one.
    pub fn code(&self) -> Option<u16> {
        match &self.0 {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

impl From<kube::Error> for ApiServerError {
    fn from(error: kube::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ApiServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            kube::Error::Api(status) => {
                write!(formatter, "{} ({} {})", status.message, status.code, status.reason)
            }
            other => other.fmt(formatter),
        }
    }
}

impl std::error::Error for ApiServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
