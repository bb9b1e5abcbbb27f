//! `spec.source`: how events leave Genesys Cloud.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use presenceroute_core::genesys_api::RetryPolicy;
use presenceroute_core::relay_config::{api_key_header, signature_header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::references::{
    ApiKeySecretRef, AwsCredentialsSecretRef, SECRET_NAME, SECRET_NAME_MESSAGE, SigningSecretRef,
};

/// How events leave Genesys Cloud: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.webhook), has(self.amazonEventBridge)].exists_one(set, set)")
    .message("exactly one source must be set: webhook or amazonEventBridge"))]
pub struct Source {
    /// Genesys Cloud posts each event to `endpoint.url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Genesys Cloud sends its notifications to a partner event bus of Amazon EventBridge. A rule of the bus passes them
    /// to the relay, by a queue or by an API destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amazon_event_bridge: Option<AmazonEventBridge>,
}

impl Source {
    /// The Secret and its key with what senders prove themselves with, where the source is pushed to: the signing secret of a
    /// webhook, or the API key of an API destination.
    #[must_use]
    pub fn push_credential_ref(&self) -> Option<(&str, &str)> {
        if let Some(webhook) = &self.webhook {
            return Some((&webhook.signing_secret_ref.name, &webhook.signing_secret_ref.key));
        }
        let destination = self.amazon_event_bridge.as_ref()?.api_destination.as_ref()?;
        Some((&destination.api_key_secret_ref.name, &destination.api_key_secret_ref.key))
    }
}

/// A registration at Genesys Cloud that posts signed events to `endpoint.url`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// The secret that events are signed with.
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub signing_secret_ref: SigningSecretRef,
    /// The registration's name at Genesys Cloud, unique in the organisation. Default: NAMESPACE/NAME. A name
    /// with a slash begins with the route's namespace: each namespace has the names below NAMESPACE/ to itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub name: Option<String>,
    /// The event types to subscribe to. Default: the exact event types of the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new("self.all(t, t.matches('^[^* ]{1,256}$'))")
            .message("every event type must have 1 to 256 characters, no space and no wildcard")
    )]
    pub event_types: Option<Vec<EventTypeName>>,
    /// Genesys Cloud's retries of an event that the endpoint does not accept.
    #[serde(default)]
    pub retry_policy: RetryPolicy,
    /// The header that carries the HMAC-SHA256 of an event.
    #[serde(default = "signature_header")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9-]+$')")
        .message("must be an HTTP field name of letters, digits and hyphens"))]
    pub signature_header: String,
    /// How old the `timestamp` of an event may be, in seconds: an older one is rejected with 400, or published to the
    /// topic of `unmatched.invalid`. Bounds how long a recorded request can be replayed. An event that Genesys Cloud
    /// retries for longer is rejected, too. Default: any age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub max_event_age_seconds: Option<i32>,
    /// The path of the EventBridge collection, below the API's URL.
    #[serde(default = "event_bridges_path")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("must begin with /"))]
    pub event_bridges_path: String,
}

fn event_bridges_path() -> String {
    "/api/v2/analytics/events/eventbridges".into()
}

/// One exact event type. A type of its own, so that the list's items have a length limit in the schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct EventTypeName(#[schemars(length(min = 1, max = 256))] pub String);

/// The integration `amazon-eventbridge-source` of Genesys Cloud, and the way from the event bus to the relay: exactly one
/// of `sqs` and `apiDestination` is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.sqs) != has(self.apiDestination)")
    .message("exactly one of sqs and apiDestination must be set"))]
pub struct AmazonEventBridge {
    /// The notification topics that Genesys Cloud sends, such as `v2.users.{id}.presence`. The literal `{id}` stands for
    /// every user. These are the event types of the routes.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new("self.all(t, t.matches('^v2([.]([A-Za-z0-9_-]+|[{][a-zA-Z0-9]+[}]))+$'))")
            .message("every topic must be a notification topic of Genesys Cloud, such as v2.users.{id}.presence")
    )]
    pub topics: Vec<NotificationTopic>,
    /// The AWS account of the event bus.
    #[schemars(length(max = 12))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{12}$')").message("must be an AWS account's 12 digits"))]
    pub aws_account_id: String,
    /// The AWS region of the event bus.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]{2,4}(-[a-z]+)+-[0-9]$')")
        .message("must be an AWS region, such as eu-west-1"))]
    pub aws_region: String,
    /// The last part of the event source's name, unique in the organisation. Default: NAMESPACE-NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')")
        .message("must have letters, digits, dots, underscores and hyphens only"))]
    pub event_source_suffix: Option<String>,
    /// Who keeps the integration at Genesys Cloud.
    #[serde(default)]
    pub integration: IntegrationMode,
    /// The relay receives the events from a queue. No public URL is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqs: Option<Sqs>,
    /// Amazon EventBridge posts the events to `endpoint.url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_destination: Option<ApiDestination>,
}

impl AmazonEventBridge {
    /// The last part of the event source's name, of a route of this namespace and name. Genesys Cloud takes at most 64
    /// characters.
    #[must_use]
    pub fn event_source_suffix(&self, namespace: &str, name: &str) -> String {
        self.event_source_suffix.clone().unwrap_or_else(|| format!("{namespace}-{name}"))
    }
}

/// One notification topic. A type of its own, so that the list's items have a length limit in the schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct NotificationTopic(#[schemars(length(min = 1, max = 200))] pub String);

/// Who keeps the integration at Genesys Cloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IntegrationMode {
    /// The operator creates, updates and deletes it.
    #[default]
    Managed,
    /// It is kept by other means, such as Terraform. The operator only reads it and reports what differs.
    External,
}

/// An Amazon SQS queue, the target of a rule of the event bus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sqs {
    /// The queue's URL. It is a standard queue.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+/[^?# ]+$')")
        .message("must be the URL of a queue, such as https://sqs.eu-west-1.amazonaws.com/123456789012/presence"))]
    #[x_kube(validation = Rule::new("!self.endsWith('.fifo')")
        .message("must be a standard queue: Amazon EventBridge gives a FIFO queue no order"))]
    pub queue_url: String,
    /// The queue's AWS region. Default: `awsRegion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]{2,4}(-[a-z]+)+-[0-9]$')")
        .message("must be an AWS region, such as eu-west-1"))]
    pub region: Option<String>,
    /// The API of a server that is compatible with Amazon SQS. Default: that of the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub endpoint_url: Option<String>,
    /// A Secret with an access key, where the pods have no IAM role by IRSA or EKS Pod Identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub credentials_secret_ref: Option<AwsCredentialsSecretRef>,
}

/// An API destination of Amazon EventBridge, the target of a rule of the event bus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiDestination {
    /// The API key that the connection of the API destination sends.
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub api_key_secret_ref: ApiKeySecretRef,
    /// The header that carries the API key.
    #[serde(default = "api_key_header")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9-]+$')")
        .message("must be an HTTP field name of letters, digits and hyphens"))]
    pub header: String,
}
