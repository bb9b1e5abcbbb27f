//! Events: one each time something changes for the user, none repeated.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::stage::{Stage, secret, until};

#[tokio::test]
async fn each_change_is_told_once() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("told")).await;
    stage.is_ready("told").await;
    for topic in ["other", "third"] {
        let routes = json!([{"eventType": "presence:state:changed", "topic": topic}]);
        stage.patch("PresenceRoute", "told", json!({"spec": {"routes": routes}})).await;
        let revision = stage.revision("told").await;
        until("the new routes are live", Duration::from_secs(20), async || {
            let message = stage.condition("told", "RoutingLive", "True", "Live").await;
            if message.contains(&revision) { Ok(()) } else { Err(message) }
        })
        .await;
    }
    // A resync and a restart are no news.
    operator.is_quiet().await;
    operator.stop().await;
    let operator = stage.operator().await;
    operator.has_reconciled(1).await;

    let events = stage.events("told").await;
    let mut seen = HashSet::new();
    for event in &events {
        let reason = event.reason.clone().unwrap_or_default();
        let note = event.message.clone().unwrap_or_default();
        println!("{:8} {reason:20} {note}", event.type_.as_deref().unwrap_or_default());
        assert_eq!(event.type_.as_deref(), Some("Normal"), "{reason} {note}");
        assert_eq!(event.series, None, "it was told again: {reason} {note}");
        assert!(seen.insert((reason.clone(), note.clone())), "it was told again: {reason} {note}");
    }
    for reason in ["Available", "RegistrationCreated", "Registered"] {
        assert!(seen.iter().any(|(told, _)| told == reason), "nothing was told of {reason}");
    }
    let lives = seen.iter().filter(|(reason, _)| reason == "Live").count();
    assert_eq!(lives, 3, "one for each revision that went live");

    // What breaks is a warning, and what is mended is told, too.
    stage.apply(secret("webhook", json!({"secret": ""}))).await;
    stage.condition("told", "SecretsResolved", "False", "SecretsUnresolved").await;
    stage.apply(secret("webhook", json!({"secret": "sign-me"}))).await;
    stage.is_ready("told").await;
    let of = |reason: &'static str| {
        let stage = &stage;
        async move {
            until(&format!("{reason} is told"), Duration::from_secs(10), async || {
                let mut events = stage.events("told").await;
                events.retain(|event| event.reason.as_deref() == Some(reason));
                events.pop().and_then(|event| event.type_).ok_or("nothing")
            })
            .await
        }
    };
    assert_eq!(of("SecretsUnresolved").await, "Warning");
    assert_eq!(of("Resolved").await, "Normal");
    stage.end(operator).await;
}
