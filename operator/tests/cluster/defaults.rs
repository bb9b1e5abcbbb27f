//! The installation's defaults for relay pods, from the operator's start to the pods.

use std::time::Duration;

use kube::{Config, ResourceExt};
use presenceroute_manifest::relay_defaults::RelayDefaults;
use serde_json::{Value, json};

use crate::operator::{Operator, Options};
use crate::stage::{Stage, until};

/// The operator of this stage with these defaults.
async fn operator(stage: &Stage, defaults: &str) -> Operator {
    let relay_defaults = RelayDefaults::parse(defaults).unwrap();
    let options = Options { relay_defaults, ..Options::default() };
    Operator::start_with(Config::infer().await.unwrap(), Some(&stage.namespace), options)
}

/// The pod of a route's Deployment, once `is_as_wanted`.
async fn pod(stage: &Stage, route: &str, is_as_wanted: impl Fn(&Value) -> bool) -> Value {
    let deployment = format!("{route}-relay");
    until("the Deployment is as wanted", Duration::from_secs(20), async || {
        let found = stage.get("Deployment", &deployment).await.ok_or(Value::Null)?;
        let pod = found.data["spec"]["template"].clone();
        if is_as_wanted(&pod) { Ok(pod) } else { Err(pod) }
    })
    .await
}

#[tokio::test]
async fn defaults_reach_the_pods_of_each_route_which_overrides_them() {
    let stage = Stage::new().await;
    let defaults = "
        priorityClassName: system-cluster-critical
        podLabels: {team: voice, tier: gold}
        serviceAccount: {annotations: {example.com/identity: relay}}
        securityContext: {}
        extraEnv: [{name: HTTPS_PROXY, value: 'http://proxy:3128'}, {name: ZONE, value: one}]
        podDisruptionBudget: {maxUnavailable: 50%}
        logLevel: warn";
    let first = operator(&stage, defaults).await;
    stage.apply(stage.route("plain")).await;
    let mut own = stage.route("own");
    own["spec"]["relay"]["podLabels"] = json!({"tier": "silver"});
    own["spec"]["relay"]["extraEnv"] = json!([{"name": "ZONE", "value": "two"}]);
    own["spec"]["relay"]["securityContext"] = json!({"runAsUser": 2000});
    own["spec"]["relay"]["logLevel"] = json!("debug");
    stage.apply(own).await;
    stage.is_ready("plain").await;
    stage.is_ready("own").await;

    let is_labelled = |pod: &Value| pod["metadata"]["labels"]["team"] == "voice";
    let plain = pod(&stage, "plain", is_labelled).await;
    assert_eq!(plain["metadata"]["labels"]["tier"], "gold");
    assert_eq!(plain["spec"]["priorityClassName"], "system-cluster-critical");
    assert_eq!(plain["spec"]["securityContext"].get("runAsUser"), None);
    let of_own = pod(&stage, "own", is_labelled).await;
    assert_eq!(of_own["metadata"]["labels"]["tier"], "silver");
    assert_eq!(of_own["spec"]["securityContext"]["runAsUser"], 2000);
    let zone = |pod: &Value| {
        let variables = pod["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        variables.into_iter().find(|variable| variable["name"] == "ZONE").unwrap()["value"].clone()
    };
    assert_eq!((zone(&plain), zone(&of_own)), (json!("one"), json!("two")));
    for (route, level) in [("plain", "warn"), ("own", "debug")] {
        let account = stage.get("ServiceAccount", &format!("{route}-relay")).await.unwrap();
        assert_eq!(account.annotations()["example.com/identity"], "relay");
        let routing = stage.get("ConfigMap", &format!("{route}-routing")).await.unwrap();
        assert_eq!(routing.data["data"]["log-level"], level);
    }
    let budget = stage.get("PodDisruptionBudget", "plain-relay").await.unwrap();
    assert_eq!(budget.data["spec"]["maxUnavailable"], "50%");
    // What the route itself says stays what its owner wrote.
    let stored = stage.get("PresenceRoute", "plain").await.unwrap();
    assert_eq!(stored.data["spec"]["relay"].get("podLabels"), None);

    // The operator that starts with others brings every route in line.
    first.stop().await;
    let second = operator(&stage, "podLabels: {tier: bronze}").await;
    let is_new = |tier: &'static str| move |pod: &Value| pod["metadata"]["labels"]["tier"] == tier;
    let plain = pod(&stage, "plain", is_new("bronze")).await;
    assert_eq!(plain["metadata"]["labels"].get("team"), None);
    assert_eq!(plain["spec"]["securityContext"]["runAsUser"], 65532);
    let is_unlabelled = |pod: &Value| pod["metadata"]["labels"].get("team").is_none();
    assert_eq!(pod(&stage, "own", is_unlabelled).await["metadata"]["labels"]["tier"], "silver");
    stage.end(second).await;
}

/// The Secret of a default is one of the route's namespace.
#[tokio::test]
async fn a_default_names_the_secret_of_each_namespace() {
    let stage = Stage::new().await;
    let variable = "extraEnv: [{name: TOKEN, valueFrom: {secretKeyRef: {name: collector, key: token}}}]";
    let operator = operator(&stage, variable).await;
    stage.apply(stage.route("traced")).await;
    let message = stage.condition("traced", "SecretsResolved", "False", "SecretsUnresolved").await;
    assert!(message.contains(r#"Secret "collector" does not exist"#), "{message}");
    assert!(stage.get("Deployment", "traced-relay").await.is_none());
    stage
        .apply(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "collector"}, "stringData": {"token": "t"},
        }))
        .await;
    stage.is_ready("traced").await;
    stage.end(operator).await;
}
