//! A Gateway API that comes after the operator is used without a restart.

use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};
use presenceroute_operator::apply::has_gateway_api;
use serde_json::json;

use crate::stage::{MADE_BY, Stage, is_established, ours, until};

/// From the moment that the API server has it.
const SOON: Duration = Duration::from_secs(15);

/// As much of the Gateway API as an HTTPRoute needs to be stored.
fn http_route_definition() -> CustomResourceDefinition {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "metadata": {
            "name": "httproutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/3328"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "HTTPRoute", "plural": "httproutes", "singular": "httproute"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": any, "status": any}}},
            }],
        },
    });
    ours(serde_json::from_value(definition).unwrap())
}

/// Installs the Gateway API where it is missing.
pub(crate) async fn install(stage: &Stage) {
    let definitions: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let http_routes = http_route_definition();
    if definitions.get_opt(&http_routes.name_any()).await.unwrap().is_none() {
        definitions.create(&Default::default(), &http_routes).await.unwrap();
    }
    is_established(&stage.client, &http_routes.name_any()).await;
}

/// Reports on an HTTPRoute as the controller of each of its Gateways does.
pub(crate) async fn report(stage: &Stage, name: &str, conditions: &[(&str, &str, &str, &str)]) {
    let live = stage.get("HTTPRoute", name).await.unwrap();
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(type_, status, reason, message)| {
            json!({
                "type": type_, "status": status, "reason": reason, "message": message,
                "observedGeneration": live.metadata.generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        })
        .collect();
    let parents = live.data["spec"]["parentRefs"].as_array().unwrap().iter().map(
        |parent| json!({"parentRef": parent, "controllerName": "example.com/test", "conditions": conditions}),
    );
    let parents: Vec<_> = parents.collect();
    stage.report("HTTPRoute", name, json!({"parents": parents})).await;
}

/// Every Gateway serves the HTTPRoute.
pub(crate) async fn accept(stage: &Stage, name: &str) {
    let conditions = [("Accepted", "True", "Accepted", ""), ("ResolvedRefs", "True", "ResolvedRefs", "")];
    report(stage, name, &conditions).await;
}

/// Removes the Gateway API that another test has installed. Returns whether there is none now.
async fn uninstall(stage: &Stage) -> bool {
    let definitions: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let name = http_route_definition().name_any();
    if let Some(live) = definitions.get_opt(&name).await.unwrap() {
        if !live.labels().contains_key(MADE_BY.0) {
            return false;
        }
        definitions.delete(&name, &Default::default()).await.unwrap();
    }
    until(
        "the API server has forgotten HTTPRoutes",
        Duration::from_secs(30),
        async || match has_gateway_api(&stage.client).await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    true
}

/// Alone, because the Gateway API comes and goes with it.
#[tokio::test]
async fn a_gateway_api_installed_late_needs_no_restart() {
    let stage = Stage::alone().await;
    if !uninstall(&stage).await {
        println!("left out: this cluster has a Gateway API of its own");
        return stage.leave().await;
    }
    stage.apply(stage.route("inside")).await;
    let operator = stage.operator().await;
    stage.is_ready("inside").await;
    operator.is_quiet().await;
    let calls = operator.calls.count();
    tokio::time::sleep(SOON).await;
    let calls: Vec<_> = operator.calls.since(calls).into_iter().filter(|call| !call.is_watch()).collect();
    assert!(calls.is_empty(), "no route wants it, and it is looked for: {calls:#?}");

    let mut route = stage.route("outside");
    route["spec"]["endpoint"]["gateway"] = json!({"parentRefs": [{"name": "public"}]});
    stage.apply(route).await;
    let message = stage.condition("outside", "RelayAvailable", "False", "ApplyFailed").await;
    assert!(message.contains("install its CRDs"), "{message}");
    // Genesys Cloud is not given a URL that leads nowhere.
    stage.condition("outside", "RoutingLive", "True", "Live").await;
    let message = stage.condition("outside", "Registered", "False", "Waiting").await;
    assert!(message.contains("every object of the route to be applied"), "{message}");
    let is_outside = |name: &str| name.ends_with("/outside");
    assert!(!stage.simulator.registrations().iter().any(|it| is_outside(&it.name)));

    install(&stage).await;
    let began = Instant::now();
    until("the HTTPRoute is there", SOON, async || {
        stage.get("HTTPRoute", "outside-relay").await.ok_or("not yet")
    })
    .await;
    println!("a Gateway API that is installed late is used after {:?}", began.elapsed());
    accept(&stage, "outside-relay").await;
    stage.is_ready("outside").await;

    // From now on it is watched as any other kind.
    operator.is_quiet().await;
    stage.delete("HTTPRoute", "outside-relay").await;
    until("the HTTPRoute is there again", Duration::from_secs(5), async || {
        stage.get("HTTPRoute", "outside-relay").await.ok_or("not yet")
    })
    .await;

    // Taken away, it is missed by name, and used again when it is back.
    assert!(uninstall(&stage).await);
    // On its way out, the definition still refuses what is created.
    until("the Gateway API is missed", SOON + SOON, async || {
        let message = stage.condition("outside", "RelayAvailable", "False", "ApplyFailed").await;
        if message.contains("install its CRDs") { Ok(()) } else { Err(message) }
    })
    .await;
    install(&stage).await;
    until("the HTTPRoute is back", SOON + SOON, async || {
        stage.get("HTTPRoute", "outside-relay").await.ok_or("not yet")
    })
    .await;
    accept(&stage, "outside-relay").await;
    stage.is_ready("outside").await;

    stage.patch("PresenceRoute", "outside", json!({"spec": {"endpoint": {"gateway": null}}})).await;
    until("the HTTPRoute is gone", Duration::from_secs(5), async || {
        match stage.get("HTTPRoute", "outside-relay").await {
            None => Ok(()),
            Some(left) => Err(left),
        }
    })
    .await;
    stage.end(operator).await;
}
