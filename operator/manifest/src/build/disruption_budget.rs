//! The PodDisruptionBudget: a drained node takes one relay at a time.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, relay_name, selector};
use crate::validate::Model;

/// Builds it. `maxUnavailable` rather than `minAvailable`, which would keep a node with a single relay from ever
/// being drained.
pub(super) fn build(model: &Model) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(model, relay_name(&model.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(model)),
            // A pod that is not ready serves nothing and must not hold up a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
