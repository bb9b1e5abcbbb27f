//! A registration at Genesys Cloud and the API that holds it, as the manifest describes them, the client sends them and
//! the status records them.
//!
//! Facts only: secrets are beside them, in the types that carry them.

use serde::{Deserialize, Serialize};

/// A registration as it shall be at Genesys Cloud, but for its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RegistrationSpec {
    /// The name by which it is found, unique in the organisation.
    pub name: String,
    /// The URL that it calls.
    pub url: String,
    /// Whether it is enabled: false while the route is suspended.
    pub enabled: bool,
    /// The event types that it sends, sorted.
    pub event_types: Vec<String>,
    /// Genesys Cloud's own retries of a delivery.
    pub retry_policy: RetryPolicy,
}

/// An integration `amazon-eventbridge-source` as it shall be at Genesys Cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IntegrationSpec {
    /// The integration's name.
    pub name: String,
    /// The last part of the event source's name, unique in the organisation: the integration is found by it.
    pub event_source_suffix: String,
    /// The AWS account of the event bus.
    pub aws_account_id: String,
    /// The AWS region of the event bus.
    pub aws_region: String,
    /// The notification topics that it sends, sorted.
    pub topics: Vec<String>,
    /// Whether it is enabled: false while the route is suspended.
    pub enabled: bool,
}

/// Where the API is and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ApiEndpoint {
    /// The base URL of the API, without a slash at its end.
    pub api_url: String,
    /// The base URL of the login service, which gives tokens, where it is not the API, without a slash at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_url: Option<String>,
    /// The path of the OAuth token endpoint.
    pub token_path: String,
    /// The path of the EventBridge collection.
    pub event_bridges_path: String,
    /// The form of the token request.
    pub token_request: TokenRequest,
}

/// Genesys Cloud's own retries of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Retries after the first attempt, 0 to 10.
    #[serde(default = "max_retries")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 10)))]
    pub max_retries: i32,
    /// The factor by which each wait is longer than the one before, 1 to 10.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TokenRequest {
    /// A JSON object with `grant_type`, `client_id` and `client_secret`.
    #[default]
    Json,
    /// `application/x-www-form-urlencoded` with HTTP Basic authentication (RFC 6749, section 2.3.1).
    Form,
}
