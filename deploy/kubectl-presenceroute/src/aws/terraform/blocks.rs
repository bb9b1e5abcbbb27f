//! The resources and data sources of the AWS provider: <https://registry.terraform.io/providers/hashicorp/aws/latest/docs>.

use serde::Serialize;

use super::expression::Template;

#[derive(Debug, Serialize)]
pub(super) struct EventBus {
    pub(super) name: Template,
    pub(super) event_source_name: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct Rule {
    pub(super) name: Template,
    pub(super) description: Template,
    pub(super) event_bus_name: Template,
    pub(super) event_pattern: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) rule: Template,
    pub(super) event_bus_name: Template,
    pub(super) target_id: &'static str,
    pub(super) arn: Template,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role_arn: Option<Template>,
    pub(super) retry_policy: RetryPolicy,
    pub(super) dead_letter_config: DeadLetterConfig,
    /// What a policy forbids is not tried again, so the policies come first.
    pub(super) depends_on: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct RetryPolicy {
    pub(super) maximum_event_age_in_seconds: u32,
    pub(super) maximum_retry_attempts: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct DeadLetterConfig {
    pub(super) arn: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct Queue {
    pub(super) name: Template,
    pub(super) message_retention_seconds: u32,
    pub(super) sqs_managed_sse_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redrive_policy: Option<Template>,
}

#[derive(Debug, Serialize)]
pub(super) struct QueuePolicy {
    pub(super) queue_url: Template,
    pub(super) policy: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyDocument {
    pub(super) statement: Statement,
}

/// What is allowed.
#[derive(Debug, Serialize)]
pub(super) struct Statement {
    pub(super) sid: &'static str,
    pub(super) actions: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) resources: Vec<Template>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) principals: Option<Principal>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) condition: Vec<Condition>,
}

/// Who may.
#[derive(Debug, Serialize)]
pub(super) struct Principal {
    #[serde(rename = "type")]
    type_: &'static str,
    identifiers: [Template; 1],
}

impl Principal {
    /// A service of AWS.
    pub(super) fn service(name: &str) -> Self {
        Self { type_: "Service", identifiers: [Template::literal(name)] }
    }

    /// The holders of a token of this identity provider.
    pub(super) fn federated(provider: Template) -> Self {
        Self { type_: "Federated", identifiers: [provider] }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Condition {
    pub(super) test: &'static str,
    pub(super) variable: Template,
    pub(super) values: [Template; 1],
}

impl Condition {
    /// A condition on a key that is known.
    pub(super) fn of(test: &'static str, key: &str, value: Template) -> Self {
        Self { test, variable: Template::literal(key), values: [value] }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ManagedPolicy {
    pub(super) name: Template,
    pub(super) description: Template,
    pub(super) policy: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct Role {
    pub(super) name: Template,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<Template>,
    pub(super) description: Template,
    pub(super) assume_role_policy: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct RolePolicy {
    pub(super) name: &'static str,
    pub(super) role: Template,
    pub(super) policy: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct PolicyAttachment {
    pub(super) role: Template,
    pub(super) policy_arn: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct PodIdentityAssociation {
    pub(super) cluster_name: Template,
    pub(super) namespace: Template,
    pub(super) service_account: Template,
    pub(super) role_arn: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct Connection {
    pub(super) name: Template,
    pub(super) description: Template,
    pub(super) authorization_type: &'static str,
    pub(super) auth_parameters: AuthParameters,
}

#[derive(Debug, Serialize)]
pub(super) struct AuthParameters {
    pub(super) api_key: ApiKey,
}

#[derive(Debug, Serialize)]
pub(super) struct ApiKey {
    pub(super) key: Template,
    pub(super) value: Template,
}

#[derive(Debug, Serialize)]
pub(super) struct ApiDestination {
    pub(super) name: Template,
    pub(super) description: Template,
    pub(super) connection_arn: Template,
    pub(super) http_method: &'static str,
    pub(super) invocation_endpoint: Template,
    pub(super) invocation_rate_limit_per_second: Template,
}
