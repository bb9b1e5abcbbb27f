//! What tools that wait for a route see of it (kstatus): the generation that was observed, and whether to give up.

use serde_json::{Value, json};

use crate::stage::Stage;

/// The condition Stalled, which is absent unless it is true.
async fn stalled(stage: &Stage, route: &str) -> Option<Value> {
    let route = stage.get("PresenceRoute", route).await.unwrap();
    let conditions = route.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == "Stalled")
}

#[tokio::test]
async fn a_route_that_no_operator_has_seen_is_of_no_generation() {
    let stage = Stage::new().await;
    stage.apply(stage.route("unseen")).await;
    let route = stage.get("PresenceRoute", "unseen").await.unwrap();
    assert_eq!(route.data["status"], json!({"observedGeneration": -1}));
    let operator = stage.operator().await;
    stage.is_ready("unseen").await;
    let route = stage.get("PresenceRoute", "unseen").await.unwrap();
    assert_eq!(route.data["status"]["observedGeneration"], 1);
    stage.end(operator).await;
}

#[tokio::test]
async fn an_invalid_route_is_stalled_until_it_is_corrected() {
    let stage = Stage::new().await;
    stage.apply(stage.route("mistyped")).await;
    let operator = stage.operator().await;
    stage.is_ready("mistyped").await;
    assert_eq!(stalled(&stage, "mistyped").await, None);
    let when =
        |when: Value| json!([{"eventType": "presence:state:changed", "topic": "states", "when": when}]);
    let patch = |routes: Value| json!({"spec": {"routes": routes}});
    stage.patch("PresenceRoute", "mistyped", patch(when(json!("attributes.presence ==")))).await;
    stage.condition("mistyped", "Ready", "False", "Invalid").await;
    let condition = stalled(&stage, "mistyped").await.unwrap();
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("Invalid")));
    stage.patch("PresenceRoute", "mistyped", patch(when(Value::Null))).await;
    stage.is_ready("mistyped").await;
    assert_eq!(stalled(&stage, "mistyped").await, None);
    stage.end(operator).await;
}
