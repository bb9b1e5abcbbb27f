//! A Genesys Cloud that does not answer holds up nothing but the registration, and there is one all the same.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use presenceroute_crds::status::SigningPhase;
use serde_json::{Value, json};

use crate::stage::{Stage, until};

const REGISTRATIONS: &str = "/api/v2/analytics/events/eventbridges";
const EDITS: usize = 10;
/// Longer than the operator waits for any answer.
const NEVER: Duration = Duration::from_secs(60);
/// From the edit until it is live, on a machine that does other things, too; an answer is waited for 15 s.
const AT_ONCE: Duration = Duration::from_secs(2);

impl Stage {
    /// The calls that match are answered so much later, once `side` of the work is done.
    fn delay(&self, calls: &Value, delay: Duration, side: &str) {
        let rule = json!({"match": calls, "do": {"delayMs": delay.as_millis(), "delayAt": side}});
        self.simulator.set_faults(serde_json::from_value(json!([rule])).unwrap());
    }

    fn calls(&self, method: &str) -> u64 {
        let counts = self.simulator.request_counts().by_route;
        let of_registrations = |route: &&String| route.starts_with(&format!("{method} {REGISTRATIONS}"));
        counts.keys().filter(of_registrations).map(|route| counts[route]).sum()
    }

    async fn asks(&self, method: &str, before: u64) {
        until("Genesys Cloud is asked", Duration::from_secs(20), async || {
            if self.calls(method) > before { Ok(()) } else { Err(self.calls(method)) }
        })
        .await;
    }

    /// How long edits of the topic take until they are live.
    async fn edits(&self, route: &str) -> Duration {
        let mut slowest = Duration::ZERO;
        for _ in 0..EDITS {
            let topic = format!("topic-{}", uuid::Uuid::new_v4().simple());
            let began = Instant::now();
            let edit = json!({"spec": {"routes": [{"eventType": "presence:state:changed", "topic": topic}]}});
            self.patch("PresenceRoute", route, edit).await;
            self.condition(route, "RoutingLive", "True", "Live").await;
            slowest = slowest.max(began.elapsed());
        }
        slowest
    }
}

fn subscribes_to(event_types: &[&str]) -> Value {
    json!({"spec": {"source": {"webhook": {"eventTypes": event_types}}}})
}

#[tokio::test]
async fn an_edit_is_live_as_fast_while_genesys_hangs() {
    let stage = Stage::new().await;
    stage.apply(stage.route("quick")).await;
    let operator = stage.operator().await;
    stage.is_ready("quick").await;
    let answering = stage.edits("quick").await;

    stage.delay(&json!({"path": REGISTRATIONS}), NEVER, "before");
    let before = stage.calls("GET");
    stage.patch("PresenceRoute", "quick", subscribes_to(&["presence:state:changed", "presence:new"])).await;
    stage.asks("GET", before).await;
    let hanging = stage.edits("quick").await;
    println!("{EDITS} edits: live after {answering:?} at most, and after {hanging:?} while Genesys hangs");
    assert!(hanging < AT_ONCE, "{hanging:?}");
    assert_eq!(stage.calls("GET"), before + 1, "one question at a time");
    let message = stage.condition("quick", "Registered", "False", "Waiting").await;
    assert!(message.contains("Genesys Cloud"), "{message}");

    // What is damaged is put back as fast.
    stage.delete("Service", "quick-relay").await;
    let began = Instant::now();
    until("the Service is there again", AT_ONCE, async || {
        stage.get("Service", "quick-relay").await.ok_or("not yet")
    })
    .await;
    println!("a deleted child is put back after {:?} while Genesys hangs", began.elapsed());

    // The reason of a failed registration is one event, however often it is tried again.
    stage.condition("quick", "Registered", "False", "Timeout").await;
    let before = stage.calls("GET");
    stage.asks("GET", before).await;
    stage.simulator.set_faults(Vec::new());
    stage.is_ready("quick").await;
    for (reason, what) in [("Waiting", "Registered: waiting for Genesys Cloud"), ("Timeout", "Registered: ")]
    {
        let mut events = stage.events("quick").await;
        events.retain(|event| {
            let note = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some(reason) && note.starts_with(what)
        });
        assert_eq!(events.len(), 1, "{reason}: {events:#?}");
        assert_eq!(events[0].series, None, "{reason} was reported again");
    }
    let registrations = stage.simulator.registrations();
    assert_eq!(registrations.len(), 1);
    assert_eq!(registrations[0].event_types.len(), 2);
    stage.end(operator).await;
}

#[tokio::test]
async fn an_edit_during_a_hanging_create_makes_no_second_one() {
    let stage = Stage::new().await;
    // The request takes effect long after it was sent: until then no registration has its name.
    let late = Duration::from_secs(5);
    stage.delay(&json!({"method": "POST", "path": REGISTRATIONS, "nth": 1}), late, "before");
    stage.apply(stage.route("hasty")).await;
    let operator = stage.operator().await;
    stage.asks("POST", 0).await;
    let event_types = ["presence:state:changed", "presence:new"];
    stage.patch("PresenceRoute", "hasty", subscribes_to(&event_types)).await;
    stage.patch("PresenceRoute", "hasty", json!({"spec": {"source": {"webhook": {"name": "hasty"}}}})).await;
    stage.condition("hasty", "RoutingLive", "True", "Live").await;
    assert!(stage.simulator.registrations().is_empty(), "the edits came too late");

    stage.is_ready("hasty").await;
    let registrations = stage.simulator.registrations();
    assert_eq!(registrations.len(), 1, "{registrations:?}");
    assert_eq!((registrations[0].name.as_str(), registrations[0].event_types.len()), ("hasty", 2));
    assert_eq!(stage.calls("POST"), 1);
    let status = stage.routes().get("hasty").await.unwrap().status.unwrap();
    assert_eq!(status.registration().unwrap().id.as_ref().unwrap(), &registrations[0].id.to_string());
    assert_eq!(status.former_registrations(), []);
    stage.end(operator).await;
}

#[tokio::test]
async fn a_stop_while_genesys_hangs_leaves_one_registration() {
    let stage = Stage::new().await;
    stage.delay(
        &json!({"method": "POST", "path": REGISTRATIONS, "nth": 1}),
        Duration::from_secs(3),
        "before",
    );
    stage.apply(stage.route("handed-on")).await;
    let operator = stage.operator().await;
    stage.asks("POST", 0).await;
    operator.stop().await;
    assert_eq!(stage.simulator.registrations().len(), 1, "the requests in flight are awaited");
    let operator = stage.operator().await;
    stage.is_ready("handed-on").await;
    assert_eq!(stage.calls("POST"), 1);
    stage.end(operator).await;
}

#[tokio::test]
async fn a_deletion_while_genesys_hangs_leaves_nothing_behind() {
    let stage = Stage::new().await;
    stage.delay(
        &json!({"method": "POST", "path": REGISTRATIONS, "nth": 1}),
        Duration::from_secs(3),
        "before",
    );
    stage.apply(stage.route("brief")).await;
    let operator = stage.operator().await;
    stage.asks("POST", 0).await;
    stage.delete("PresenceRoute", "brief").await;
    stage.is_empty().await;
    assert_eq!(stage.calls("POST"), 1);
    assert!(stage.simulator.registrations().is_empty());
    stage.end(operator).await;
}

#[tokio::test]
async fn retain_ends_a_deletion_that_hangs_at_once() {
    let stage = Stage::new().await;
    stage.apply(stage.route("held")).await;
    let operator = stage.operator().await;
    stage.is_ready("held").await;
    stage.delay(&json!({"method": "DELETE"}), Duration::from_secs(8), "before");
    stage.delete("PresenceRoute", "held").await;
    stage.asks("DELETE", 0).await;
    assert!(!stage.routes().get("held").await.unwrap().finalizers().is_empty());
    stage.patch("PresenceRoute", "held", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    let began = Instant::now();
    stage.is_empty().await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    stage.end(operator).await;
}

/// Every call takes longer than a reconcile stays for it.
#[tokio::test]
async fn a_route_lives_and_ends_with_a_slow_genesys() {
    let stage = Stage::new().await;
    stage.delay(&json!({"path": "/api/v2"}), Duration::from_millis(400), "before");
    stage.apply(stage.route("slow")).await;
    let operator = stage.operator().await;
    stage.is_ready("slow").await;
    stage.patch("PresenceRoute", "slow", json!({"spec": {"suspend": true}})).await;
    stage.condition("slow", "Ready", "False", "Suspended").await;
    stage.patch("PresenceRoute", "slow", json!({"spec": {"suspend": false}})).await;
    stage.is_ready("slow").await;
    let applied = stage.apply(crate::stage::secret("webhook", json!({"secret": "sign-me-otherwise"}))).await;
    let rotated = genesys_simulator::fingerprint(&"sign-me-otherwise".into());
    until("the new secret is registered", Duration::from_secs(20), async || {
        let held = stage.simulator.registrations()[0].secret_fingerprint();
        if held == rotated { Ok(()) } else { Err(held) }
    })
    .await;
    // What is called when the old secret is retired is of the rotation, too.
    until("the rotation to this version of the Secret is over", Duration::from_secs(10), async || {
        let signing = stage.routes().get("slow").await.unwrap().status.unwrap().signing.unwrap();
        let is_registered = signing.secret_version == applied.metadata.resource_version;
        if is_registered && signing.phase == SigningPhase::Stable { Ok(()) } else { Err(signing) }
    })
    .await;
    stage.is_ready("slow").await;
    operator.is_quiet().await;
    let calls = operator.calls.count();
    let asked = stage.simulator.request_counts().total;
    operator.is_quiet().await;
    assert!(operator.calls.since(calls).iter().all(|call| call.is_watch()));
    assert_eq!(stage.simulator.request_counts().total, asked, "it sends the request again and again");
    stage.delete("PresenceRoute", "slow").await;
    stage.is_empty().await;
    assert!(stage.simulator.registrations().is_empty());
    stage.end(operator).await;
}
