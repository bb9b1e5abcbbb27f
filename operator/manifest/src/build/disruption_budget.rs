//! The PodDisruptionBudget: a drained node takes one relay at a time.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use presenceroute_crds::spec::DisruptionBudget;

use super::{metadata, relay_name, selector};
use crate::validate::Model;

/// By default `maxUnavailable` rather than `minAvailable`, which would keep a node with a single relay from ever being
/// drained.
pub(super) fn build(model: &Model) -> PodDisruptionBudget {
    let DisruptionBudget { min_available, max_unavailable } = model
        .relay
        .pod_disruption_budget
        .clone()
        .unwrap_or(DisruptionBudget { min_available: None, max_unavailable: Some(IntOrString::Int(1)) });
    PodDisruptionBudget {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available,
            max_unavailable,
            selector: Some(selector(model)),
            // A pod that is not ready serves nothing and must not hold up a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
        }),
        ..PodDisruptionBudget::default()
    }
}
