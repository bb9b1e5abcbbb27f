//! RoutingLive compares what every ready pod reports with what is desired.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::stage::{Stage, until};

const PODS: usize = 10;

fn with_topic(topic: &str) -> Value {
    json!({"spec": {"routes": [{"eventType": "presence:state:changed", "topic": topic}]}})
}

#[tokio::test]
async fn ten_pods_are_live_in_two_seconds_and_a_laggard_is_named() {
    let stage = Stage::new().await;
    let mut route = stage.route("wide");
    route["spec"]["relay"]["replicas"] = json!(PODS);
    let operator = stage.operator().await;
    stage.apply(route).await;
    let ready_pods = |number: usize| {
        let stage = &stage;
        async move {
            until("the pods are ready", Duration::from_secs(30), async || {
                let relay = stage.routes().get("wide").await.unwrap().status.and_then(|status| status.relay);
                let ready = relay.map_or(0, |relay| usize::try_from(relay.ready_replicas).unwrap());
                if ready == number { Ok(()) } else { Err(ready) }
            })
            .await;
        }
    };
    ready_pods(PODS).await;
    stage.is_ready("wide").await;

    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let began = Instant::now();
        stage.patch("PresenceRoute", "wide", with_topic(&format!("topic-{number}"))).await;
        let generation = stage.get("PresenceRoute", "wide").await.unwrap().metadata.generation;
        until("all pods are live", Duration::from_secs(10), async || {
            let status = stage.routes().get("wide").await.unwrap().status.unwrap_or_default();
            let live = status.conditions.iter().any(|condition| {
                condition.type_ == "RoutingLive"
                    && condition.status == "True"
                    && condition.observed_generation == generation
            });
            let replicas = status.routing.as_ref().map(|routing| routing.live_replicas);
            if live && replicas == Some(10) { Ok(()) } else { Err(status) }
        })
        .await;
        slowest = slowest.max(began.elapsed());
    }
    println!("10 edits: live on 10 pods after {slowest:?} at most");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");

    let lagging = stage.list("Pod").await[0].name_any();
    stage.relays.freeze(&lagging);
    stage.patch("PresenceRoute", "wide", with_topic("frozen")).await;
    let message = stage.condition("wide", "RoutingLive", "False", "Progressing").await;
    until("the pod that lags, and no other, is named", Duration::from_secs(10), async || {
        let message = stage.condition("wide", "RoutingLive", "False", "Progressing").await;
        let names_it = message.contains("live on 9 of 10 ready pods") && message.contains(&lagging);
        if names_it { Ok(()) } else { Err(message) }
    })
    .await;
    println!("{message}");
    stage.relays.thaw(&lagging);
    stage.condition("wide", "RoutingLive", "True", "Live").await;

    // A new pod that serves an older table is not counted before it has the newest.
    stage.patch("PresenceRoute", "wide", json!({"spec": {"relay": {"replicas": PODS + 1}}})).await;
    ready_pods(PODS + 1).await;
    // The condition was true of ten pods, too.
    until("all eleven are live", Duration::from_secs(10), async || {
        let status = stage.routes().get("wide").await.unwrap().status.unwrap();
        let live = status.routing.unwrap().live_replicas;
        if live == 11 { Ok(()) } else { Err(live) }
    })
    .await;
    stage.condition("wide", "RoutingLive", "True", "Live").await;
    stage.end(operator).await;
}
