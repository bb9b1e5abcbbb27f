//! A namespace that is deleted as a whole: it ends, and nothing stays registered.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::stage::{Stage, until};

const KEPT: &str = "going-deregistration";

/// A stage with a route that is registered.
async fn registered() -> Stage {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("going")).await;
    stage.is_ready("going").await;
    operator.stop().await;
    assert_eq!(stage.simulator.registrations().len(), 1);
    stage
}

async fn delete_namespace(stage: &Stage) {
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    namespaces.delete(&stage.namespace, &Default::default()).await.unwrap();
}

async fn namespace_ends(stage: &Stage) {
    let namespaces: Api<Namespace> = Api::all(stage.client.clone());
    until("the namespace is gone", Duration::from_secs(60), async || {
        let left = namespaces.get_opt(&stage.namespace).await.unwrap();
        left.map_or(Ok(()), |namespace| Err(namespace.status.and_then(|status| status.conditions)))
    })
    .await;
}

async fn secrets_of_the_user_are_gone(stage: &Stage) {
    until("the user's Secrets are gone", Duration::from_secs(30), async || {
        let left: Vec<_> = stage.list("Secret").await.iter().map(ResourceExt::name_any).collect();
        if left == [KEPT] { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test]
async fn a_namespace_deleted_as_a_whole_ends_with_nothing_registered() {
    let stage = registered().await;
    let operator = stage.operator().await;
    operator.has_reconciled(1).await;
    delete_namespace(&stage).await;
    namespace_ends(&stage).await;
    assert!(stage.simulator.registrations().is_empty());
    operator.stop().await;
    stage.leave().await;
}

#[tokio::test]
async fn a_new_leader_deregisters_in_a_namespace_that_goes_slowly() {
    let stage = registered().await;
    let slow = json!([{"match": {}, "do": {"delayMs": 1500}}]);
    stage.simulator.set_faults(serde_json::from_value(slow).unwrap());
    delete_namespace(&stage).await;
    // What the operator remembered is lost, and what the user gave it is gone.
    secrets_of_the_user_are_gone(&stage).await;
    let before = stage.simulator.request_counts().total;
    let operator = stage.operator().await;
    // It fails over once more, in the middle of a call.
    until("Genesys Cloud is asked", Duration::from_secs(30), async || {
        let asked = stage.simulator.request_counts().total;
        if asked > before { Ok(()) } else { Err(asked) }
    })
    .await;
    operator.stop().await;
    let operator = stage.operator().await;
    namespace_ends(&stage).await;
    assert!(stage.simulator.registrations().is_empty());
    operator.stop().await;
    stage.leave().await;
}

#[tokio::test]
async fn a_route_is_deregistered_after_its_secret_and_its_operator() {
    let stage = registered().await;
    stage.delete("Secret", "oauth").await;
    let operator = stage.operator().await;
    stage.delete("PresenceRoute", "going").await;
    stage.is_empty().await;
    assert!(stage.simulator.registrations().is_empty());
    until("what was kept is gone", Duration::from_secs(30), async || {
        stage.get("Secret", KEPT).await.map_or(Ok(()), |left| Err(Box::new(left.metadata)))
    })
    .await;
    stage.end(operator).await;
}

#[tokio::test]
async fn what_was_kept_goes_with_a_route_that_was_let_go_by_hand() {
    let stage = registered().await;
    delete_namespace(&stage).await;
    secrets_of_the_user_are_gone(&stage).await;
    stage.patch("PresenceRoute", "going", json!({"metadata": {"finalizers": null}})).await;
    until("the route is gone", Duration::from_secs(10), async || {
        stage.get("PresenceRoute", "going").await.map_or(Ok(()), |left| Err(Box::new(left.metadata)))
    })
    .await;
    assert!(stage.get("Secret", KEPT).await.is_some());
    let operator = stage.operator().await;
    namespace_ends(&stage).await;
    operator.stop().await;
    stage.leave().await;
}

#[tokio::test]
async fn the_kept_client_follows_the_one_that_works_and_is_never_a_wrong_one() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let rejected =
        json!([{"match": {"method": "POST", "path": "/api/v2/oauth/token"}, "do": {"status": 401}}]);
    stage.simulator.set_faults(serde_json::from_value(rejected.clone()).unwrap());
    stage.apply(stage.route("going")).await;
    stage.condition("going", "Registered", "False", "CredentialsRejected").await;
    assert!(stage.get("Secret", KEPT).await.is_none(), "a client that was never accepted is kept");
    stage.simulator.set_faults(Vec::new());
    stage.apply(crate::stage::secret("oauth", json!({"clientId": "client", "clientSecret": "right"}))).await;
    stage.is_ready("going").await;
    let kept = async || {
        let secret = stage.get("Secret", KEPT).await.unwrap();
        let data = secret.data["data"].as_object().unwrap().clone();
        let (_, value) = data.into_iter().find(|(key, _)| key.ends_with(".clientSecret")).unwrap();
        value
    };
    assert_eq!(kept().await, json!("cmlnaHQ="));
    stage.simulator.set_faults(serde_json::from_value(rejected).unwrap());
    stage.apply(crate::stage::secret("oauth", json!({"clientId": "client", "clientSecret": "wrong"}))).await;
    stage.condition("going", "Registered", "Unknown", "CredentialsRejected").await;
    assert_eq!(kept().await, json!("cmlnaHQ="));
    stage.simulator.set_faults(Vec::new());
    stage.apply(crate::stage::secret("oauth", json!({"clientId": "client", "clientSecret": "newer"}))).await;
    until("the newer one is kept", Duration::from_secs(20), async || {
        let kept = kept().await;
        if kept == json!("bmV3ZXI=") { Ok(()) } else { Err(kept) }
    })
    .await;
    stage.end(operator).await;
}
