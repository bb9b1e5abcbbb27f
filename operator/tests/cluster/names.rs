//! Two routes that exchange the names of their registrations.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

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
