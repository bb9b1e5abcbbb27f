//! RoutingLive compares what every ready pod reports with what is desired.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use presenceroute_operator::relay_pods::RelayStatusAccess;
use serde_json::{Value, json};

use crate::api_server::HarnessApiServer;
use crate::operator::Operator;
use crate::rights::{apply_rights, service_account};
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

/// A NetworkPolicy or a service mesh that lets in the events' port alone.
#[tokio::test]
async fn a_status_port_that_is_closed_is_named_with_what_to_open() {
    let stage = Stage::new().await;
    stage.relays.close_port(true);
    let operator = stage.operator().await;
    stage.apply(stage.route("meshed")).await;
    let message = stage.condition("meshed", "RoutingLive", "False", "StatusUnreachable").await;
    for words in [
        "1 relay pods are ready",
        "/status on port 9090",
        "NetworkPolicies",
        "service mesh",
        "operator.relayStatus",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(stage.condition("meshed", "Ready", "False", "StatusUnreachable").await, message);
    assert!(stage.simulator.registrations().is_empty(), "nothing is known of the relays yet");

    stage.relays.close_port(false);
    stage.is_ready("meshed").await;
    stage.end(operator).await;
}

/// With the rights that the chart grants for it. Direct connections have no part in it: the operator's calls show the one
/// way, and the relay answers no other.
#[tokio::test]
async fn relays_are_asked_through_the_api_server_where_it_is_wanted() {
    if HarnessApiServer::find().is_none() {
        println!("skipped: only the harness's API server reaches a pod that is played on this machine");
        return;
    }
    let stage = Stage::new().await;
    let namespaces = format!("watchNamespaces={{{}}}", stage.namespace);
    apply_rights(&stage, &["rbac.namespaced=true", &namespaces, "operator.relayStatus=ApiServer"]);
    let config = service_account(&stage).await;
    // The API server connects to no address of the loopback network.
    stage.relays.answer_at(own_address());
    let operator = Operator::start_asking(config, Some(&stage.namespace), RelayStatusAccess::ApiServer);
    stage.apply(stage.route("proxied")).await;
    stage.is_ready("proxied").await;
    stage.patch("PresenceRoute", "proxied", with_topic("other")).await;
    stage.condition("proxied", "RoutingLive", "True", "Live").await;
    let calls = operator.calls.since(0);
    let asked =
        calls.iter().filter(|call| call.uri.path().ends_with(":9090/proxy/status") && call.status == 200);
    assert!(asked.count() > 1);
    assert!(calls.iter().all(|call| call.status != 403), "a right is missing");
    stage.end(operator).await;
}

/// An address of this machine that is none of the loopback network.
fn own_address() -> Ipv4Addr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // No packet is sent: the system only chooses from where it would be.
    socket.connect("10.96.0.1:9").unwrap();
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) => address,
        address => panic!("{address} is no address of IPv4"),
    }
}
