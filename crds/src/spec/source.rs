//! `spec.source`: how events leave Genesys Cloud.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use presenceroute_core::genesys_api::RetryPolicy;
use presenceroute_core::relay_config::signature_header;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::references::{SECRET_NAME, SECRET_NAME_MESSAGE, SigningSecretRef};

/// How events leave Genesys Cloud: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.webhook)].exists_one(set, set)")
    .message("exactly one source must be set: webhook"))]
pub struct Source {
    /// Genesys Cloud posts each event to `endpoint.url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
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
