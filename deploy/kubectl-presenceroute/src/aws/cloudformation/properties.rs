//! The properties of the resources: <https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/>.

use serde::Serialize;

use super::policy::PolicyDocument;
use super::value::Text;
use crate::aws::model::EventPattern;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EventBus {
    pub(super) name: Text,
    pub(super) event_source_name: Text,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) event_bus_name: Text,
    pub(super) event_pattern: EventPattern<Text>,
    pub(super) state: &'static str,
    pub(super) targets: [Target; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Target {
    pub(super) id: &'static str,
    pub(super) arn: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role_arn: Option<Text>,
    pub(super) retry_policy: RetryPolicy,
    pub(super) dead_letter_config: DeadLetterConfig,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RetryPolicy {
    pub(super) maximum_event_age_in_seconds: u32,
    pub(super) maximum_retry_attempts: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeadLetterConfig {
    pub(super) arn: Text,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Queue {
    pub(super) queue_name: String,
    pub(super) message_retention_period: u32,
    pub(super) sqs_managed_sse_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redrive_policy: Option<RedrivePolicy>,
}

/// Its keys are Amazon SQS's own.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RedrivePolicy {
    pub(super) dead_letter_target_arn: Text,
    pub(super) max_receive_count: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct QueuePolicy {
    pub(super) queues: [Text; 1],
    pub(super) policy_document: PolicyDocument<Text>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ManagedPolicy {
    pub(super) managed_policy_name: String,
    pub(super) description: String,
    pub(super) policy_document: PolicyDocument<Text>,
    /// The roles that have it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) roles: Vec<Text>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Role {
    pub(super) role_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    pub(super) description: String,
    pub(super) assume_role_policy_document: TrustPolicy,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) policies: Vec<InlinePolicy>,
}

/// Who may take a role.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum TrustPolicy {
    Document(PolicyDocument<Text>),
    /// The document as JSON.
    Text(Text),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InlinePolicy {
    pub(super) policy_name: &'static str,
    pub(super) policy_document: PolicyDocument<Text>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PodIdentityAssociation {
    pub(super) cluster_name: Text,
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) role_arn: Text,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Connection {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) authorization_type: &'static str,
    pub(super) auth_parameters: AuthParameters,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AuthParameters {
    pub(super) api_key_auth_parameters: ApiKeyAuthParameters,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ApiKeyAuthParameters {
    pub(super) api_key_name: String,
    pub(super) api_key_value: Text,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ApiDestination {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) connection_arn: Text,
    pub(super) http_method: &'static str,
    pub(super) invocation_endpoint: String,
    pub(super) invocation_rate_limit_per_second: Text,
}
