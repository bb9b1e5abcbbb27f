//! What a test makes in the cluster. A run that was killed leaves it behind. It is known by a label, so that the next
//! run removes it, and nothing else.

use serde_json::{Value, json};

use crate::kubectl::{self, text};
use crate::wait::{seconds, until};
use crate::{Failure, Outcome};

/// The label of everything that a test makes.
const LABEL: &str = "presenceroute.io/made-by";

/// The definition of PresenceRoutes.
pub const DEFINITION: &str = "crd/presenceroutes.presenceroute.io";

/// PresenceRoutes, by their group: a test's copy of the definition has a group of its own.
pub const ROUTES: &str = "presenceroutes.presenceroute.io";

/// The objects of one test, by the value of their label.
#[derive(Clone, Copy, Debug)]
pub struct Scratch(pub &'static str);

impl Scratch {
    /// Makes a namespace, with more labels if need be.
    pub fn make_namespace(self, name: &str, labels: &[(&str, &str)]) -> Outcome {
        let mut namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {LABEL: self.0}},
        });
        for (label, value) in labels {
            namespace["metadata"]["labels"][label] = json!(value);
        }
        kubectl::apply(&namespace.to_string())
    }

    /// Makes a definition where there is none of this name, and waits until it is served.
    pub fn define(self, name: &str, manifest: &str) -> Outcome {
        if kubectl::find("", &format!("crd/{name}"))?.is_some() {
            return Ok(());
        }
        let mut definition: Value =
            serde_saphyr::from_str(manifest).map_err(|error| Failure(format!("{name}: {error}")))?;
        definition["metadata"]["labels"][LABEL] = json!(self.0);
        kubectl::apply_on_server(&definition.to_string())?;
        self::is_served(name)
    }

    /// The value of the chart that labels all its objects.
    pub fn chart_value(self) -> String {
        format!("commonLabels.{}={}", LABEL.replace('.', "\\."), self.0)
    }

    /// Whether it was made by this test.
    pub fn made(self, object: &Value) -> bool {
        kubectl::labels(object).get(LABEL).is_some_and(|value| value == self.0)
    }

    /// Removes everything that this run or an earlier one made, but for a definition of PresenceRoutes that others use.
    pub fn sweep(self) -> Outcome {
        let selector = format!("{LABEL}={}", self.0);
        let namespaces = kubectl::list_everywhere("namespaces", &selector)?;
        let namespaces: Vec<_> =
            namespaces.iter().map(|namespace| text(namespace, "/metadata/name")).collect();
        let definition = kubectl::find("", DEFINITION)?;
        let routes = match &definition {
            Some(_) => kubectl::list_everywhere(ROUTES, "")?,
            None => Vec::new(),
        };
        let (ours, theirs): (Vec<_>, Vec<_>) =
            routes.iter().partition(|route| namespaces.contains(&text(route, "/metadata/namespace")));
        for route in ours {
            // No operator is there any more that would remove the finalizer.
            let patch = json!({"metadata": {"finalizers": null}});
            let namespace = text(route, "/metadata/namespace");
            kubectl::patch(namespace, &format!("{ROUTES}/{}", text(route, "/metadata/name")), &patch)?;
        }
        for namespace in &namespaces {
            release_clients(namespace)?;
        }
        for found in kubectl::list_everywhere("crds", &selector)? {
            let object = format!("crd/{}", text(&found, "/metadata/name"));
            if object != DEFINITION || theirs.is_empty() {
                kubectl::run(&["delete", &object, "--timeout=60s"])?;
            }
        }
        let kinds = "clusterroles,clusterrolebindings,namespaces";
        kubectl::run(&["delete", kinds, "-l", &selector, "--timeout=120s"]).map(drop)
    }
}

/// Lets go of the Secrets that keep the OAuth clients of routes whose operator is gone.
pub fn release_clients(namespace: &str) -> Outcome {
    let patch = json!({"metadata": {"finalizers": null}});
    for secret in kubectl::list(namespace, "secrets", "")? {
        if text(&secret, "/metadata/name").ends_with("-deregistration") {
            kubectl::patch(namespace, &kubectl::name_of(&secret), &patch)?;
        }
    }
    Ok(())
}

/// Waits until objects of a definition can be listed: the API server calls it established a moment before.
pub fn is_served(definition: &str) -> Outcome {
    until(&format!("{definition} is served"), seconds(20), || {
        kubectl::run(&["get", definition, "--all-namespaces"]).map(drop)
    })
}
