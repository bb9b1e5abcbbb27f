//! What the chart grants the operator: Roles, so that this operator sees no routes but its own.

use std::fmt;

use k8s_openapi::api::rbac::v1::Role;
use presenceroute_e2e::audit::{Request, right};
use presenceroute_e2e::{Failure, Outcome};
use serde_json::Value;

use crate::scene::{NAMESPACE, RELEASE, SCRATCH};

const TEMPLATES: [&str; 3] = [
    "templates/operator-serviceaccount.yaml",
    "templates/rbac-operator.yaml",
    "templates/rbac-leader-election.yaml",
];

/// A right, and the only names that it holds for, if it names any.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) right: String,
    names: Vec<String>,
}

impl Grant {
    /// Whether the right holds for the object of a request.
    pub(crate) fn covers(&self, request: &Request) -> bool {
        self.names.is_empty() || self.names.contains(&request.name)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.right)?;
        if self.names.is_empty() { Ok(()) } else { write!(formatter, ", only {}", self.names.join(" ")) }
    }
}

/// The values that add a right to those of the defaults. Operators that other tests install run with them.
const OPTIONAL: [&str; 1] = ["operator.relayStatus=ApiServer"];

/// The account and its roles, as the chart renders them by default.
pub(crate) fn objects() -> Outcome<Vec<Value>> {
    rendered(&[])
}

/// Every right that the chart grants by default.
pub(crate) fn of_chart() -> Outcome<Vec<Grant>> {
    of_roles(rendered(&[])?)
}

/// Every right that the chart grants with all of its options.
pub(crate) fn with_options() -> Outcome<Vec<Grant>> {
    of_roles(rendered(&OPTIONAL)?)
}

fn rendered(options: &[&str]) -> Outcome<Vec<Value>> {
    let mut values = vec![
        SCRATCH.chart_value(),
        "rbac.namespaced=true".into(),
        format!("watchNamespaces={{{NAMESPACE}}}"),
    ];
    values.extend(options.iter().map(|&option| option.to_owned()));
    RELEASE.render(&values, &TEMPLATES)
}

fn of_roles(objects: Vec<Value>) -> Outcome<Vec<Grant>> {
    let mut grants = Vec::new();
    for object in objects.into_iter().filter(|object| object["kind"] == "Role") {
        let role: Role = serde_json::from_value(object)
            .map_err(|error| Failure(format!("a Role of the chart cannot be read: {error}")))?;
        for rule in role.rules.unwrap_or_default() {
            let names = rule.resource_names.unwrap_or_default();
            for group in rule.api_groups.unwrap_or_default() {
                for resource in rule.resources.iter().flatten() {
                    let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
                    grants.extend(rule.verbs.iter().map(|verb| Grant {
                        right: right(verb, resource, &group, part),
                        names: names.clone(),
                    }));
                }
            }
        }
    }
    if grants.is_empty() { Err(Failure("the chart grants nothing".into())) } else { Ok(grants) }
}
