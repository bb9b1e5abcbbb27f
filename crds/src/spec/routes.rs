//! `spec.routes` and `spec.unmatched`: which event goes to which topic.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use presenceroute_core::routing::ContentMode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One rule: events of the type that satisfy the condition are published to the topic under the key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// An event type, or a prefix followed by `*`, which matches the rest.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^[^* ]*[*]?$')")
        .message("must be an event type without spaces; a * can only be its last character"))]
    pub event_type: String,
    /// A CEL expression over `id`, `eventType`, `timestamp`, `source`, `subject` and `attributes` that must be true. The
    /// attributes of a notification are the fields of its `eventBody`, and `correlationId`. An expression
    /// that cannot be evaluated counts as false; so does one with a loop (`all`, `exists`, `map`, `filter`) on an event
    /// of more than 1000 values or 64 KiB of text. All expressions together have at most 256 KiB and 256 patterns
    /// (`matches`), which take at most 16 MiB compiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub when: Option<String>,
    /// The topic that the event is published to.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
        .message("must be a legal Kafka topic name: letters, digits, dots, underscores and hyphens, at most 249"))]
    pub topic: String,
    /// The record key: `id` (the default of `source.webhook`), `source`, `subject` (the default of
    /// `source.amazonEventBridge`: the id of the user that the event is about) or `attributes.PATH`. Kafka keeps the order
    /// of records with one key. Each event has an id of its own, so `id` gives no order; `subject`, or
    /// `attributes.userId` of a webhook's event, keeps the events of an agent in order. An event without the value gets
    /// its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.matches('^(id|source|subject|attributes([.][A-Za-z0-9_-]+)+)$')")
        .message("must be id, source, subject or attributes.PATH"))]
    pub key: Option<String>,
    /// The content mode of the CloudEvents Kafka binding. Binary (the default): the value is the event's bytes, and the
    /// headers are `ce_id`, `ce_type` and so on. Structured: the value is a CloudEvent in JSON, with the event as its
    /// `data`.
    #[serde(default, skip_serializing_if = "ContentMode::is_binary")]
    pub content_mode: ContentMode,
}

/// What happens to an event whose type no route names. An event whose type a route names and for which no `when` is
/// true is filtered: responded to with 200 and counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.action == 'DeadLetter') == has(self.topic)")
        .message("topic must be set when action is DeadLetter, and only then"),
    validation = Rule::new("self.action == 'Reject' || !has(self.status)")
        .message("status can only be set when action is Reject")
)]
pub struct Unmatched {
    /// Reject responds with an error, Drop responds with 200 and counts, DeadLetter publishes to `topic`.
    #[serde(default)]
    pub action: UnmatchedAction,
    /// The status code of Reject: 404 (the default) or 400. Genesys Cloud drops the event on either, and an API destination
    /// of Amazon EventBridge moves it to the dead-letter queue of the rule's target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == 404 || self == 400").message("must be 404 or 400"))]
    pub status: Option<i32>,
    /// The topic of DeadLetter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
        .message("must be a legal Kafka topic name: letters, digits, dots, underscores and hyphens, at most 249"))]
    pub topic: Option<String>,
    /// Also apply this to filtered events.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_filtered: bool,
    /// Publishes what is signed and is no event, instead of rejecting it: what is not JSON, lacks `id` or `eventType`, has
    /// a field of the wrong type or a content encoding, or is older than `source.webhook.maxEventAgeSeconds`. The record's
    /// value is the body as it came; its header `presenceroute_reason` names the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<InvalidEvents>,
}

/// The destination of what is signed and is no event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvalidEvents {
    /// The topic.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9._-]+$') && self != '.' && self != '..'")
        .message("must be a legal Kafka topic name: letters, digits, dots, underscores and hyphens, at most 249"))]
    pub topic: String,
}

/// What the relay does with an unmatched event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnmatchedAction {
    /// Respond with an error.
    #[default]
    Reject,
    /// Respond with 200, count it, publish nothing.
    Drop,
    /// Publish it to a topic of its own.
    DeadLetter,
}
