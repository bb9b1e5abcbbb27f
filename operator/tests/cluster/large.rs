//! Objects as large as the API server takes them, and Secrets that change without end: the operator's memory stays within
//! the limit of its pods, and routes are reconciled at a bounded rate.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};

use crate::process::Replica;
use crate::scale::Usage;
use crate::stage::{Stage, secret, until};

/// What the chart gives the operator's container, in KiB.
const LIMIT: u64 = 256 * 1024;
const OBJECTS: usize = 100;
/// As much as fits an object of 1 MiB.
const LARGE: usize = 1000 * 1000;

fn labelled(kind: &str, name: &str, route: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "labels": {
            "app.kubernetes.io/managed-by": "presenceroute-operator", "presenceroute.io/route": route,
        }},
        "data": data,
    })
}

/// ConfigMaps and Secrets that carry the labels of routes, and Secrets that routes name, 100 MB of each.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_objects_of_a_megabyte_stay_within_the_memory_limit() {
    let stage = Stage::alone().await;
    let junk = "x".repeat(LARGE);
    // As Secrets have it: 750 kB.
    let base64 = &junk;
    let mut objects = Vec::new();
    for number in 0..OBJECTS {
        objects.push(labelled(
            "ConfigMap",
            &format!("junk-{number}"),
            "nowhere",
            json!({"routing.yaml": junk}),
        ));
        objects.push(labelled(
            "Secret",
            &format!("r{number}-signing"),
            &format!("r{number}"),
            json!({"junk": base64}),
        ));
        objects.push(secret(
            &format!("oauth-{number}"),
            json!({"clientId": "client", "clientSecret": "hush", "junk": junk}),
        ));
        let mut route = stage.route(&format!("large-{number}"));
        route["spec"]["genesys"]["credentialsSecretRef"]["name"] = json!(format!("oauth-{number}"));
        route["spec"]["relay"]["replicas"] = json!(0);
        objects.push(route);
    }
    let made = futures::stream::iter(objects).for_each_concurrent(8, async |object| {
        stage.apply(object).await;
    });
    made.await;
    let replica = Replica::start(&stage, "large");
    until("every route was reconciled", Duration::from_secs(120), async || {
        let routes = stage.routes().list(&Default::default()).await.unwrap();
        let is_known = |type_: &str, route: &presenceroute_crds::PresenceRoute| {
            route.status.iter().flat_map(|status| &status.conditions).any(|it| it.type_ == type_)
        };
        let lacking = routes.items.iter().filter(|route| !is_known("RelayAvailable", route)).count();
        if lacking == 0 { Ok(()) } else { Err(lacking) }
    })
    .await;
    let usage = Usage::of(replica.pid());
    println!(
        "{OBJECTS} ConfigMaps, {OBJECTS} labelled and {OBJECTS} named Secrets of {LARGE} bytes: {usage}"
    );
    assert!(usage.peak < LIMIT, "{usage}");
    assert!(replica.terminate().await);
    stage.leave().await;
}

/// A CA that routes name is rewritten twenty times a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_rewritten_in_a_loop_reconciles_its_routes_at_a_bounded_rate() {
    const ROUTES: usize = 5;
    const LASTS: Duration = Duration::from_secs(20);
    let stage = Stage::alone().await;
    stage.apply(secret("ca", json!({"ca.crt": "none"}))).await;
    for number in 0..ROUTES {
        let mut route = stage.route(&format!("looped-{number}"));
        route["spec"]["genesys"]["api"] = json!({"caSecretRef": {"name": "ca", "key": "ca.crt"}});
        route["spec"]["relay"]["replicas"] = json!(0);
        stage.apply(route).await;
    }
    let replica = Replica::start(&stage, "looped");
    replica.leads(Duration::from_secs(20)).await;
    until("every route was reconciled", Duration::from_secs(60), async || {
        let reconciles = replica.metric("reconciles_total").await;
        if reconciles >= ROUTES as f64 { Ok(()) } else { Err(reconciles) }
    })
    .await;
    let (before, cpu) = (replica.metric("reconciles_total").await, Usage::of(replica.pid()).cpu);
    let began = Instant::now();
    let mut writes = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    while began.elapsed() < LASTS {
        ticks.tick().await;
        let text = format!("{writes}{}", "y".repeat(1000));
        stage.patch("Secret", "ca", json!({"stringData": {"ca.crt": text}})).await;
        writes += 1;
    }
    let elapsed = began.elapsed();
    let reconciles = replica.metric("reconciles_total").await - before;
    let rate = reconciles / ROUTES as f64 / elapsed.as_secs_f64();
    let usage = Usage::of(replica.pid());
    println!(
        "{writes} writes in {:.1} s: {rate:.1} reconciles a second of each route, {:.1} s of CPU; {usage}",
        elapsed.as_secs_f64(),
        (usage.cpu - cpu).as_secs_f64()
    );
    // Thirty at once, and two a second from then on.
    assert!(reconciles <= ROUTES as f64 * (31.0 + 2.0 * (elapsed.as_secs_f64() + 1.0)), "{reconciles}");
    assert!(usage.peak < LIMIT, "{usage}");

    // What was written last counts all the same.
    stage.delete("Secret", "ca").await;
    let message = stage.condition("looped-0", "SecretsResolved", "False", "SecretsUnresolved").await;
    assert!(message.contains("\"ca\" does not exist"), "{message}");
    assert!(replica.terminate().await);
    stage.leave().await;
}
