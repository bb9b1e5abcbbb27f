//! A namespace with the account and the rights of the chart, and the definitions that a route can ask for.

use std::path::PathBuf;
use std::sync::OnceLock;

use presenceroute_e2e::helm::Release;
use presenceroute_e2e::scratch::Scratch;
use presenceroute_e2e::steps::say;
use presenceroute_e2e::{Outcome, command, harness, kubectl, tree};

use crate::grants;

pub(crate) const SCRATCH: Scratch = Scratch("rights-test");
pub(crate) const NAMESPACE: &str = "presenceroute-rights-test";
pub(crate) const RELEASE: Release = Release { name: "presenceroute", namespace: NAMESPACE };

/// The operator's ServiceAccount.
pub(crate) const ACCOUNT: &str = "presenceroute-operator";

/// As much of the Gateway API as an HTTPRoute needs to be stored.
const HTTP_ROUTES: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api/pull/3328"}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: HTTPRoute, plural: httproutes, singular: httproute}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"#;

static PREPARED: OnceLock<Outcome> = OnceLock::new();

/// Prepares the scene, once.
pub(crate) fn prepared() -> Outcome {
    PREPARED.get_or_init(prepare).clone()
}

fn prepare() -> Outcome {
    harness::ensure_cluster()?;
    SCRATCH.sweep()?;
    SCRATCH.make_namespace(NAMESPACE, &[])?;
    for object in grants::objects()? {
        kubectl::apply(&object.to_string())?;
    }
    SCRATCH.define("httproutes.gateway.networking.k8s.io", HTTP_ROUTES)?;
    SCRATCH.define("presenceroutes.presenceroute.io", &tree::read("crds/presenceroutes.yaml")?)
}

/// A kubeconfig with which a program is the operator's account.
pub(crate) fn kubeconfig() -> Outcome<PathBuf> {
    let token = kubectl::run(&["-n", NAMESPACE, "create", "token", ACCOUNT])?;
    let file =
        command::file("kubeconfig", &kubectl::run(&["config", "view", "--minify", "--raw", "--flatten"])?)?;
    let config = ["--kubeconfig", &file.display().to_string(), "config"];
    let credentials = format!("--token={}", token.trim());
    kubectl::run(&[&config[..], &["set-credentials", "operator", &credentials]].concat())?;
    kubectl::run(&[&config[..], &["set-context", "--current", "--user=operator"]].concat())?;
    Ok(file)
}

pub(crate) fn clear() {
    if PREPARED.get().is_some()
        && let Err(failure) = SCRATCH.sweep()
    {
        say(&format!("not everything could be removed: {failure}"));
    }
}
