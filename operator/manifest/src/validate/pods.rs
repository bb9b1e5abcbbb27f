//! The part of `spec.relay` that Kubernetes would refuse only when it is applied, or that the relay's own settings forbid.

use std::collections::BTreeMap;

use presenceroute_core::relay_environment::{TRACING, is_reserved};
use presenceroute_crds::spec::{DisruptionBudget, Relay};

use super::SpecProblem;
use crate::admission::{is_annotation_key, is_label_value, is_qualified_name};

/// Every problem of the relay pods.
pub(crate) fn problems(relay: &Relay) -> Vec<SpecProblem> {
    let mut problems = environment(relay);
    let annotations = relay.service_account.iter().map(|account| &account.annotations);
    problems.extend(annotations.flat_map(|found| annotation_keys("serviceAccount.annotations", found)));
    problems.extend(annotation_keys("podAnnotations", &relay.pod_annotations));
    problems.extend(labels("podLabels", &relay.pod_labels));
    problems.extend(labels("nodeSelector", &relay.node_selector));
    problems.extend(relay.pod_disruption_budget.as_ref().and_then(disruption_budget));
    problems
}

fn problem(field: impl Into<String>, cause: impl Into<String>) -> SpecProblem {
    SpecProblem::Pods { field: field.into(), cause: cause.into() }
}

/// The variables that the relay's own settings, or others of the same name, would contradict.
fn environment(relay: &Relay) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    for (index, variable) in relay.extra_env.iter().enumerate() {
        let name = variable.name.as_str();
        let cause = if is_reserved(name) {
            "is one of the relay's own variables; use the field of the spec"
        } else if relay.tracing.is_some() && TRACING.contains(&name) {
            "is set by spec.relay.tracing; remove one of the two"
        } else if relay.extra_env[..index].iter().any(|before| before.name == name) {
            "is there twice; remove one of the two"
        } else {
            continue;
        };
        problems.push(problem(format!("extraEnv[{index}].name"), format!("{name:?} {cause}")));
    }
    problems
}

fn annotation_keys<'m>(
    field: &'m str,
    annotations: &'m BTreeMap<String, String>,
) -> impl Iterator<Item = SpecProblem> + 'm {
    let wrong = annotations.keys().filter(|key| !is_annotation_key(key));
    wrong.map(move |key| problem(field, format!("{key:?} cannot be an annotation's key; use [PREFIX/]NAME")))
}

fn labels<'m>(
    field: &'m str,
    labels: &'m BTreeMap<String, String>,
) -> impl Iterator<Item = SpecProblem> + 'm {
    labels.iter().filter_map(move |(key, value)| {
        if !is_qualified_name(key) {
            Some(problem(field, format!("{key:?} cannot be a label's key; use [PREFIX/]NAME")))
        } else if !is_label_value(value) {
            let cause = "must be at most 63 letters, digits, hyphens, dots and underscores";
            Some(problem(field, format!("the value of {key:?} {cause}")))
        } else {
            None
        }
    })
}

fn disruption_budget(budget: &DisruptionBudget) -> Option<SpecProblem> {
    let is_single = budget.min_available.is_some() != budget.max_unavailable.is_some();
    let cause = "exactly one of minAvailable and maxUnavailable must be set";
    (!is_single).then(|| problem("podDisruptionBudget", cause))
}
