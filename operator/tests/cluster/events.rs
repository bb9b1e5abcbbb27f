//! Events: one each time something changes for the user, none repeated.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::stage::{Stage, secret, until};

#[tokio::test]
async fn each_change_is_one_event() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("eventful")).await;
    stage.is_ready("eventful").await;
    for topic in ["other", "third"] {
        let routes = json!([{"eventType": "presence:state:changed", "topic": topic}]);
        stage.patch("PresenceRoute", "eventful", json!({"spec": {"routes": routes}})).await;
        let revision = stage.revision("eventful").await;
        until("the new routes are live", Duration::from_secs(20), async || {
            let message = stage.condition("eventful", "RoutingLive", "True", "Live").await;
            if message.contains(&revision) { Ok(()) } else { Err(message) }
        })
        .await;
    }
    // A resync and a restart are no news.
    operator.is_quiet().await;
    operator.stop().await;
    let operator = stage.operator().await;
    operator.has_reconciled(1).await;

    let events = stage.events("eventful").await;
    let mut seen = HashSet::new();
    for event in &events {
        let reason = event.reason.clone().unwrap_or_default();
        let note = event.message.clone().unwrap_or_default();
        println!("{:8} {reason:20} {note}", event.type_.as_deref().unwrap_or_default());
        assert_eq!(event.type_.as_deref(), Some("Normal"), "{reason} {note}");
        assert_eq!(event.series, None, "it was reported again: {reason} {note}");
        assert!(seen.insert((reason.clone(), note.clone())), "it was reported again: {reason} {note}");
    }
    for reason in ["Available", "RegistrationCreated", "Registered"] {
        assert!(seen.iter().any(|(found, _)| found == reason), "no event has {reason}");
    }
    let lives = seen.iter().filter(|(reason, _)| reason == "Live").count();
    assert_eq!(lives, 3, "one for each revision that went live");

    // A failure is a warning, and its end an event, too.
    stage.apply(secret("webhook", json!({"secret": ""}))).await;
    stage.condition("eventful", "SecretsResolved", "False", "SecretsUnresolved").await;
    stage.apply(secret("webhook", json!({"secret": "sign-me-by-hmac-sha256"}))).await;
    stage.is_ready("eventful").await;
    let of = |reason: &'static str| {
        let stage = &stage;
        async move {
            until(&format!("{reason} is reported"), Duration::from_secs(10), async || {
                let mut events = stage.events("eventful").await;
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
