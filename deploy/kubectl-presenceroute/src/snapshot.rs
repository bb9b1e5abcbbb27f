//! A route at one moment: what the operator and the relays report of it.
//!
//! Data alone: gathered by [`crate::status`], shown by [`crate::tree`] or as JSON.

use presenceroute_core::relay_status::RelayStatus;
use presenceroute_crds::PresenceRouteStatus;
use serde::Serialize;

/// A route at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Snapshot {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    pub(crate) suspended: bool,
    pub(crate) deleting: bool,
    /// What the operator reports.
    pub(crate) status: PresenceRouteStatus,
    /// What the relays report.
    pub(crate) pods: Vec<RelayPod>,
    pub(crate) topics: Vec<Topic>,
    pub(crate) responses: Vec<Response>,
    /// Over how long the rates were measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) measured_seconds: Option<f64>,
}

/// A relay pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RelayPod {
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) phase: String,
    pub(crate) restarts: i32,
    /// What the pod reports of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<RelayStatus>,
    /// Why there is no report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// A topic that events of this route go to.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// Events that it has acknowledged to the pods that run now.
    pub(crate) published: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
    /// Whether the topic does not exist.
    pub(crate) missing: bool,
    /// Whether the relays are not authorized to write to it.
    pub(crate) forbidden: bool,
}

/// Requests by their response.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    pub(crate) code: String,
    pub(crate) reason: String,
    /// How often, by the pods that run now.
    pub(crate) count: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
}
