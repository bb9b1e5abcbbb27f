//! Two routes that exchange the names of their registrations, or claim the same one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::scale::token;
use crate::stage::{Stage, until};

/// The names of the registrations, by their id and the endpoint that each calls.
fn names(stage: &Stage) -> BTreeMap<(String, String), String> {
    let registrations = stage.simulator.registrations();
    let named = registrations.iter().map(|it| ((it.id.to_string(), it.url.to_string()), it.name.clone()));
    named.collect()
}

#[tokio::test]
async fn two_routes_that_exchange_names_keep_their_registrations() {
    let stage = Stage::new().await;
    let named = |name: &str| json!({"spec": {"genesys": {"endpointName": name}}});
    for (route, name) in [("one", "first"), ("two", "second")] {
        let mut route = stage.route(route);
        route["spec"]["genesys"]["endpointName"] = json!(name);
        stage.apply(route).await;
    }
    let operator = stage.operator().await;
    stage.is_ready("one").await;
    stage.is_ready("two").await;
    let mut expected = names(&stage);
    for name in expected.values_mut() {
        *name = if name == "first" { "second".into() } else { "first".into() };
    }

    stage.patch("PresenceRoute", "one", named("second")).await;
    stage.patch("PresenceRoute", "two", named("first")).await;
    let began = Instant::now();
    until("the names are exchanged", Duration::from_secs(60), async || {
        let names = names(&stage);
        if names == expected { Ok(()) } else { Err(names) }
    })
    .await;
    println!("two routes have exchanged their names after {:?}", began.elapsed());
    stage.is_ready("one").await;
    stage.is_ready("two").await;
    for route in ["one", "two"] {
        let status = stage.routes().get(route).await.unwrap().status.unwrap();
        assert_eq!(status.former_registrations, []);
    }
    stage.end(operator).await;
}

/// Does what the operator of another cluster does whose route has the same name.
async fn take_registration(stage: &Stage, url: &str) {
    let registration = &stage.simulator.registrations()[0];
    let mut taken = serde_json::to_value(&**registration).unwrap();
    taken["url"] = json!(url);
    taken["secret"] = json!("of another cluster");
    let place = format!("{}/api/v2/analytics/events/eventbridges/{}", stage.genesys_url(), registration.id);
    let answer = reqwest::Client::new().put(place).bearer_auth(token(stage).await).json(&taken).send();
    answer.await.unwrap().error_for_status().unwrap();
}

#[tokio::test]
async fn a_registration_that_another_cluster_takes_again_is_left() {
    const THEIRS: &str = "https://presence.example.org/eventbridge/presence";
    let stage = Stage::new().await;
    stage.apply(stage.route("contested")).await;
    let operator = stage.operator().await;
    stage.is_ready("contested").await;
    let id = stage.simulator.registrations()[0].id;
    let subscribe = |event_types| json!({"spec": {"genesys": {"eventTypes": event_types}}});

    take_registration(&stage, THEIRS).await;
    let edit = subscribe(vec!["presence:state:changed", "presence:new"]);
    stage.patch("PresenceRoute", "contested", edit).await;
    stage.is_ready("contested").await;
    assert_ne!(stage.simulator.registrations()[0].url, THEIRS, "the first time it may be a mistake");

    take_registration(&stage, THEIRS).await;
    stage.patch("PresenceRoute", "contested", subscribe(vec!["presence:state:changed"])).await;
    let message = stage.condition("contested", "Registered", "False", "Contested").await;
    assert!(message.contains(THEIRS) && message.contains("spec.genesys.endpointName"), "{message}");
    let status = stage.routes().get("contested").await.unwrap().status.unwrap();
    assert_eq!(status.registration.unwrap().place.id, None, "it is not this route's");

    stage.delete("PresenceRoute", "contested").await;
    stage.is_empty().await;
    let left = stage.simulator.registrations();
    assert_eq!((left.len(), left[0].id, left[0].url.as_str()), (1, id, THEIRS));
    stage.end(operator).await;
}

#[tokio::test]
async fn the_second_route_with_a_url_or_name_waits_until_it_is_free() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let claims = [
        ("spec.endpoint.url", json!({"endpoint": {"url": "https://presence.example.com/shared"}})),
        ("spec.genesys.endpointName", json!({"genesys": {"endpointName": "shared"}})),
    ];
    for (number, (field, claim)) in claims.into_iter().enumerate() {
        let names = [format!("first-{number}"), format!("second-{number}")];
        for name in &names {
            let mut route = stage.route(name);
            for (part, fields) in claim.as_object().unwrap() {
                route["spec"][part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            }
            stage.apply(route).await;
            if *name == names[0] {
                stage.is_ready(name).await;
            }
        }
        let message = stage.condition(&names[1], "Accepted", "False", "Invalid").await;
        let first = format!("PresenceRoute {}/{}, which has it", stage.namespace, names[0]);
        assert!(message.contains(field) && message.contains(&first), "{message}");
        assert_eq!(stage.simulator.registrations().len(), number + 1);
        assert!(stage.get("Deployment", &format!("{}-relay", names[1])).await.is_none());

        stage.delete("PresenceRoute", &names[0]).await;
        stage.is_ready(&names[1]).await;
        assert_eq!(stage.simulator.registrations().len(), number + 1);
    }
    stage.end(operator).await;
}
