//! A PresenceRoute that does not parse affects no other, and no field is half applied.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::api::DynamicObject;
use kube::{Api, ResourceExt};
use presenceroute_operator::finalizer::FINALIZER;
use serde_json::{Value, json};

use crate::stage::{DEFINITION, Stage, definition, is_established, until};

/// A CRD as an earlier version may have had it: anything is a spec.
fn looser() -> CustomResourceDefinition {
    let mut definition = definition();
    let anything = JSONSchemaProps {
        type_: Some("object".into()),
        x_kubernetes_preserve_unknown_fields: Some(true),
        ..JSONSchemaProps::default()
    };
    let schema = definition.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
    schema.x_kubernetes_validations = None;
    schema.properties.as_mut().unwrap().insert("spec".into(), anything);
    definition
}

async fn redefine(stage: &Stage, definition: CustomResourceDefinition) {
    let definitions: Api<CustomResourceDefinition> = Api::all(stage.client.clone());
    let mut live = definitions.get(DEFINITION).await.unwrap();
    live.spec = definition.spec;
    definitions.replace(DEFINITION, &Default::default(), &live).await.unwrap();
    is_established(&stage.client, DEFINITION).await;
}

/// As `kubectl replace` does.
async fn replace(stage: &Stage, object: Value) {
    let mut object: DynamicObject = serde_json::from_value(object).unwrap();
    let name = object.name_any();
    let live = stage.get("PresenceRoute", &name).await.unwrap();
    object.metadata.resource_version = live.metadata.resource_version;
    object.metadata.finalizers = live.metadata.finalizers;
    stage.objects("PresenceRoute").replace(&name, &Default::default(), &object).await.unwrap();
}

/// Alone, because all tests share the CRD.
#[tokio::test]
async fn a_route_of_an_older_crd_does_not_stop_the_others() {
    let stage = Stage::alone().await;
    redefine(&stage, looser()).await;
    let broken = json!({
        "apiVersion": "presenceroute.io/v1alpha1", "kind": "PresenceRoute",
        "metadata": {"name": "broken"},
        "spec": {"routes": "all of them", "relay": {"replicas": 1, "logLevel": 7}},
    });
    until("the API server takes it", Duration::from_secs(10), async || {
        stage
            .objects("PresenceRoute")
            .create(&Default::default(), &serde_json::from_value(broken.clone()).unwrap())
            .await
    })
    .await;
    redefine(&stage, definition()).await;

    let operator = stage.operator().await;
    stage.apply(stage.route("sound")).await;
    stage.is_ready("sound").await;
    let events = until("an event names the broken route", Duration::from_secs(10), async || {
        let events = stage.events("broken").await;
        if events.is_empty() { Err("none") } else { Ok(events) }
    })
    .await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].reason.as_deref(), Some("InvalidObject"));
    assert!(events[0].message.as_deref().unwrap().contains("kubectl replace"), "{:?}", events[0].message);
    for kind in ["Deployment", "ConfigMap", "Service"] {
        let names = stage.list(kind).await.into_iter().filter_map(|object| object.metadata.name);
        assert!(!names.into_iter().any(|name| name.starts_with("broken")), "{kind}");
    }

    // It is repaired, and comes up.
    replace(&stage, stage.route("broken")).await;
    stage.is_ready("broken").await;
    assert_eq!(
        stage
            .events("broken")
            .await
            .iter()
            .filter(|event| event.reason.as_deref() == Some("InvalidObject"))
            .count(),
        1
    );
    stage.end(operator).await;
}

#[tokio::test]
async fn an_unknown_field_is_pruned_or_refused_but_never_half_applied() {
    let stage = Stage::new().await;
    let mut route = stage.route("typo");
    route["spec"]["relay"]["replicaCount"] = json!(7);
    route["metadata"]["namespace"] = json!(stage.namespace);
    let object = serde_json::from_value(route.clone()).unwrap();
    let strict = kube::api::PostParams { field_manager: None, dry_run: false };
    let api = stage.objects("PresenceRoute");
    let stored = api.create(&strict, &object).await.unwrap();
    assert_eq!(stored.data["spec"]["relay"].get("replicaCount"), None, "the API server prunes it");

    // `kubectl apply` asks for strict validation, and is refused with the field's path.
    let file = std::env::temp_dir().join(format!("{}.json", stage.namespace));
    std::fs::write(&file, route.to_string()).unwrap();
    let said = crate::stage::kubectl(&["apply", "-f", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert!(said.contains(r#"unknown field "spec.relay.replicaCount""#), "{said}");
    let live = stage.get("PresenceRoute", "typo").await.unwrap();
    assert_eq!(
        live.metadata.resource_version, stored.metadata.resource_version,
        "a refused one changes nothing"
    );
    stage.leave().await;
}

#[tokio::test]
async fn an_invalid_route_reports_why_its_deletion_waits() {
    let stage = Stage::new().await;
    let mut route = stage.route("leaving");
    route["metadata"]["finalizers"] = json!([FINALIZER]);
    // The CRD has no bound for the number, and the operator's type does not hold it.
    let preference = json!({"weight": 3_000_000_000_u64, "preference": {}});
    route["spec"]["relay"]["affinity"] =
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}});
    stage.apply(route).await;
    let operator = stage.operator().await;
    let is_said = async |words: &str| {
        until("an event says so", Duration::from_secs(10), async || {
            let notes: Vec<_> =
                stage.events("leaving").await.into_iter().filter_map(|event| event.message).collect();
            if notes.iter().any(|note| note.contains(words)) { Ok(()) } else { Err(notes) }
        })
        .await;
    };
    is_said("is left as it is").await;
    stage.delete("PresenceRoute", "leaving").await;
    is_said("stays, although it is being deleted").await;

    let mut written_anew = stage.route("leaving");
    written_anew["spec"]["deletionPolicy"] = json!("Retain");
    replace(&stage, written_anew).await;
    stage.is_empty().await;
    stage.end(operator).await;
}
