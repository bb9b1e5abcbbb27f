//! Choices of the Genesys Cloud API that the manifest offers and the client carries out.

use serde::{Deserialize, Serialize};

/// Genesys Cloud's own retries of a delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Retries after the first attempt, 0 to 10.
    #[serde(default = "max_retries")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 10)))]
    pub max_retries: i32,
    /// By how much each wait is longer than the one before, 1 to 10.
    #[serde(default = "backoff_multiplier")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    pub backoff_multiplier: i32,
}

fn max_retries() -> i32 {
    3
}

fn backoff_multiplier() -> i32 {
    2
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: max_retries(), backoff_multiplier: backoff_multiplier() }
    }
}

/// The body of the token request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TokenRequest {
    /// A JSON object with `grant_type`, `client_id` and `client_secret`.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded` with HTTP Basic authentication (RFC 6749, section 2.3.1).
    Form,
}
