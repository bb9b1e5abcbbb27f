//! How a route reads and is driven with kubectl.

use std::time::Duration;

use crate::stage::{Stage, kubectl, until};

/// On threads, because kubectl blocks the one that waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn kubectl_gets_scales_waits_and_explains() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("read")).await;
    let namespace = ["-n", stage.namespace.as_str()];
    let in_namespace = |arguments: &[&str]| kubectl(&[&namespace, arguments].concat());

    let said = in_namespace(&["wait", "--for=condition=Ready", "pr/read", "--timeout=30s"]);
    assert_eq!(said.trim(), "presenceroute.presenceroute.io/read condition met");

    let wide = in_namespace(&["get", "pr", "-o", "wide"]);
    println!("{wide}");
    let mut lines = wide.lines();
    let header: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let expected =
        ["NAME", "READY", "REASON", "ROUTES", "PODS", "ENDPOINT", "REGISTRATION", "MESSAGE", "AGE"];
    assert_eq!(header, expected);
    let id = stage.simulator.registrations()[0].id.to_string();
    let line = lines.next().unwrap();
    for part in ["read", "True", "Ready", "https://read.", &id, "Genesys Cloud is registered to call"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!in_namespace(&["get", "all"]).contains("presenceroute.presenceroute.io/read"));

    let said = in_namespace(&["scale", "pr/read", "--replicas=3"]);
    assert_eq!(said.trim(), "presenceroute.presenceroute.io/read scaled");
    until("there are three pods", Duration::from_secs(20), async || {
        let route = stage.get("PresenceRoute", "read").await.unwrap();
        if route.data["status"]["relay"]["readyReplicas"] == 3 { Ok(()) } else { Err(route.data) }
    })
    .await;
    let scale = in_namespace(&[
        "get",
        "--raw",
        &format!("/apis/presenceroute.io/v1alpha1/namespaces/{}/presenceroutes/read/scale", stage.namespace),
    ]);
    assert!(scale.contains(r#""replicas":3"#) && scale.contains("presenceroute.io/route=read"), "{scale}");

    for (field, words) in [
        ("pr", "carries the presence events of a Genesys Cloud organisation to Kafka topics"),
        ("pr.spec.routes", "Every route that matches gets the event, at most once a topic"),
        ("pr.spec.deletionPolicy", "Whether the registration is deleted together with this object"),
        ("pr.spec.suspend", "Disables the registration at Genesys Cloud and keeps everything else"),
        (
            "pr.status.conditions",
            "Accepted, SecretsResolved, RelayAvailable, RoutingLive, EndpointExposed, Registered and Ready",
        ),
        ("pr.status.routing.liveReplicas", "The number of relay pods that report this revision"),
    ] {
        // The API server publishes the schema a moment after it has begun to serve the definition.
        until(&format!("kubectl explains {field}"), Duration::from_secs(30), async || {
            let text = kubectl(&["explain", field]);
            let flowing = text.split_whitespace().collect::<Vec<_>>().join(" ");
            if flowing.contains(words) { Ok(()) } else { Err(text) }
        })
        .await;
    }
    stage.end(operator).await;
}
