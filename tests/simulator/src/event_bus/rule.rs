//! A rule of the event bus: which events it matches, its target, and how often it tries.

use std::collections::HashSet;

use http::{HeaderName, HeaderValue};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::signature;

const LONGEST_AGE_SECONDS: u64 = 86_400;
const MOST_RETRIES: u32 = 185;

/// A rule. Serialised without its secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BusRule {
    /// Unique.
    pub name: String,
    /// The full name of the event source whose events match; by default those of every integration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_source: Option<String>,
    /// The exact detail-types that match, such as `v2.users.{id}.presence`; by default every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail_types: Option<Vec<String>>,
    /// Where matching events go.
    pub target: Target,
    /// When the rule gives up.
    #[serde(default)]
    pub retry_policy: TargetRetryPolicy,
}

impl BusRule {
    /// Whether an event of that source and detail-type is sent to the target.
    pub(super) fn matches(&self, event_source: &str, detail_type: &str) -> bool {
        self.event_source.as_ref().is_none_or(|wanted| wanted == event_source)
            && self.detail_types.as_ref().is_none_or(|wanted| wanted.iter().any(|kind| kind == detail_type))
    }
}

/// The target of a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// An Amazon SQS queue, or a queue of a compatible server.
    Sqs(SqsTarget),
    /// An HTTP endpoint.
    ApiDestination(ApiDestinationTarget),
}

/// A queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqsTarget {
    /// The queue's URL.
    pub queue_url: String,
    /// The server's API; by default the origin of the queue's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
    /// The region that requests are signed for; `us-east-1` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// What requests are signed with; unsigned without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SqsCredentials>,
}

/// An AWS access key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SqsCredentials {
    /// The key's id.
    pub access_key_id: String,
    /// The key's secret.
    #[serde(deserialize_with = "secret", skip_serializing)]
    pub secret_access_key: SecretString,
}

/// An API destination with a connection that sends an API key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiDestinationTarget {
    /// Where envelopes are posted: http or https.
    pub url: String,
    /// The header with the API key.
    #[serde(default = "default_header")]
    pub header: String,
    /// The API key; not sent where there is none. Serialised as its fingerprint.
    #[serde(
        default,
        rename(serialize = "apiKeyFingerprint"),
        deserialize_with = "optional_secret",
        serialize_with = "fingerprint",
        skip_serializing_if = "Option::is_none"
    )]
    pub api_key: Option<SecretString>,
    /// How many requests a second are begun at most; 300 by default, as at AWS.
    #[serde(default = "default_invocation_rate")]
    pub invocation_rate_limit_per_second: u32,
}

impl ApiDestinationTarget {
    /// An endpoint without an API key.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            header: default_header(),
            api_key: None,
            invocation_rate_limit_per_second: default_invocation_rate(),
        }
    }
}

fn default_header() -> String {
    "X-Api-Key".to_owned()
}

fn default_invocation_rate() -> u32 {
    300
}

/// When a rule gives up an event: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TargetRetryPolicy {
    /// The age of the event in seconds, 1 to 86400.
    pub maximum_event_age_in_seconds: u64,
    /// Retries after the first try, 0 to 185.
    pub maximum_retry_attempts: u32,
}

impl Default for TargetRetryPolicy {
    fn default() -> Self {
        Self { maximum_event_age_in_seconds: LONGEST_AGE_SECONDS, maximum_retry_attempts: MOST_RETRIES }
    }
}

/// Why rules were refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct RuleError(pub(super) String);

pub(super) fn check_all(rules: &[BusRule]) -> Result<(), RuleError> {
    let mut names = HashSet::new();
    for rule in rules {
        let invalid = |problem: &str| Err(RuleError(format!("rule {:?}: {problem}", rule.name)));
        if rule.name.is_empty() || !names.insert(&rule.name) {
            return invalid("\"name\" must be unique and not empty");
        }
        if rule.detail_types.as_ref().is_some_and(Vec::is_empty) {
            return invalid("\"detailTypes\" must not be empty; leave it out for every one");
        }
        let policy = rule.retry_policy;
        if !(1..=LONGEST_AGE_SECONDS).contains(&policy.maximum_event_age_in_seconds) {
            return invalid("\"maximumEventAgeInSeconds\" must be 1 to 86400");
        }
        if policy.maximum_retry_attempts > MOST_RETRIES {
            return invalid("\"maximumRetryAttempts\" must be 0 to 185");
        }
        match &rule.target {
            Target::Sqs(target) => {
                let endpoint = target.endpoint_url.as_ref().unwrap_or(&target.queue_url);
                if [&target.queue_url, endpoint].iter().any(|url| !is_http(url)) {
                    return invalid("\"queueUrl\" and \"endpointUrl\" must be http or https URLs");
                }
            }
            Target::ApiDestination(target) => {
                if !is_http(&target.url) {
                    return invalid("\"url\" must be an http or https URL");
                }
                if target.header.parse::<HeaderName>().is_err() {
                    return invalid("\"header\" must be the name of a header");
                }
                let is_value = |key: &SecretString| HeaderValue::from_str(key.expose_secret()).is_ok();
                if !target.api_key.as_ref().is_none_or(is_value) {
                    return invalid("\"apiKey\" must be the value of a header");
                }
                if target.invocation_rate_limit_per_second == 0 {
                    return invalid("\"invocationRateLimitPerSecond\" must be at least 1");
                }
            }
        }
    }
    Ok(())
}

fn is_http(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(SecretString::from))
}

fn fingerprint<S: Serializer>(key: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    key.as_ref().map(signature::fingerprint).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(target: Value) -> Value {
        json!({"name": "a", "target": target})
    }

    fn destination() -> Value {
        json!({"apiDestination": {"url": "https://presence.example.com/", "apiKey": "k3y"}})
    }

    fn check(rules: Value) -> Result<(), RuleError> {
        check_all(&serde_json::from_str::<Vec<BusRule>>(&rules.to_string()).unwrap())
    }

    #[test]
    fn a_rule_matches_exact_names_only() {
        let mut written = rule(destination());
        written["eventSource"] = json!("aws.partner/genesys.com/cloud/org/a");
        written["detailTypes"] = json!(["v2.users.{id}.presence"]);
        let rule: BusRule = serde_json::from_str(&written.to_string()).unwrap();
        assert!(rule.matches("aws.partner/genesys.com/cloud/org/a", "v2.users.{id}.presence"));
        assert!(!rule.matches("aws.partner/genesys.com/cloud/org/ab", "v2.users.{id}.presence"));
        assert!(!rule.matches("aws.partner/genesys.com/cloud/org/a", "v2.users.{id}.activity"));
    }

    #[test]
    fn a_rule_that_cannot_work_is_refused() {
        assert_eq!(check(json!([rule(destination())])), Ok(()));
        for rules in [
            json!([rule(destination()), rule(destination())]),
            json!([rule(json!({"sqs": {"queueUrl": "presence"}}))]),
            json!([rule(json!({"apiDestination": {"url": "ftp://x/"}}))]),
            json!([rule(json!({"apiDestination": {"url": "http://x/", "header": "not a header"}}))]),
            json!([rule(json!({"apiDestination": {"url": "http://x/", "apiKey": "a\nb"}}))]),
            json!([{"name": "a", "target": destination(), "retryPolicy": {"maximumRetryAttempts": 186}}]),
            json!([{"name": "a", "target": destination(), "detailTypes": []}]),
        ] {
            assert!(check(rules.clone()).is_err(), "{rules}");
        }
    }

    #[test]
    fn a_rule_is_shown_without_its_secrets() {
        let queue = json!({"sqs": {
            "queueUrl": "http://localhost:9324/queue/a",
            "credentials": {"accessKeyId": "id", "secretAccessKey": "s3cret"},
        }});
        for target in [destination(), queue] {
            let rule: BusRule = serde_json::from_str(&rule(target).to_string()).unwrap();
            let shown = format!("{} {rule:?}", serde_json::to_string(&rule).unwrap());
            assert!(!shown.contains("k3y") && !shown.contains("s3cret"), "{shown}");
        }
    }
}
