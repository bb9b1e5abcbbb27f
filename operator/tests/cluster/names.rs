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
    let named = |name: &str| json!({"spec": {"source": {"webhook": {"name": name}}}});
    for (route, name) in [("one", "first"), ("two", "second")] {
        let mut route = stage.route(route);
        route["spec"]["source"]["webhook"]["name"] = json!(name);
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
    // A route may be ready while a former registration is being removed; its condition Registered names it.
    for route in ["one", "two"] {
        until("no former registration is left", Duration::from_secs(60), async || {
            let status = stage.routes().get(route).await.unwrap().status.unwrap();
            let registered = status.conditions.iter().find(|it| it.type_ == "Registered").unwrap();
            let left = status.former_registrations().to_vec();
            let is_left = registered.message.contains("former registration") || !left.is_empty();
            if is_left { Err((registered.message.clone(), left)) } else { Ok(()) }
        })
        .await;
    }
    assert_eq!(names(&stage), expected);
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
    let subscribe = |event_types| json!({"spec": {"source": {"webhook": {"eventTypes": event_types}}}});

    take_registration(&stage, THEIRS).await;
    let edit = subscribe(vec!["presence:state:changed", "presence:new"]);
    stage.patch("PresenceRoute", "contested", edit).await;
    stage.is_ready("contested").await;
    assert_ne!(stage.simulator.registrations()[0].url, THEIRS, "the first time it may be a mistake");

    take_registration(&stage, THEIRS).await;
    stage.patch("PresenceRoute", "contested", subscribe(vec!["presence:state:changed"])).await;
    let message = stage.condition("contested", "Registered", "False", "Contested").await;
    assert!(message.contains(THEIRS) && message.contains("spec.source.webhook.name"), "{message}");
    let status = stage.routes().get("contested").await.unwrap().status.unwrap();
    assert_eq!(status.registration().unwrap().id, None, "it is not this route's");

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
        ("spec.endpoint.url", "endpoint", json!({"url": "https://presence.example.com/shared"})),
        ("spec.source.webhook.name", "source/webhook", json!({"name": "shared"})),
    ];
    for (number, (field, part, claim)) in claims.into_iter().enumerate() {
        let names = [format!("first-{number}"), format!("second-{number}")];
        for name in &names {
            let mut route = stage.route(name);
            let part = route["spec"].pointer_mut(&format!("/{part}")).unwrap();
            part.as_object_mut().unwrap().extend(claim.as_object().unwrap().clone());
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
