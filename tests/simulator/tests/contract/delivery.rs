use std::collections::HashSet;
use std::time::Duration;

use genesys_simulator::{DeliveryPlan, Outcome, PlanError, RunState, SignWith, sign};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::endpoint::Endpoint;
use crate::organisation::{Organisation, SECRET, draft, draft_with};

fn plan(json: Value) -> DeliveryPlan {
    serde_json::from_str(&json.to_string()).unwrap()
}

fn event_type(body: &[u8]) -> String {
    serde_json::from_slice::<Value>(body).unwrap()["eventType"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_delivery_signs_the_exact_bytes() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let summary = organisation.simulator.deliver(plan(json!({"count": 20}))).unwrap().finished().await;
    assert_eq!((summary.state, summary.outcomes[&Outcome::Delivered]), (RunState::Done, 20));
    let received = endpoint.received();
    assert_eq!(received.len(), 20);
    for delivery in received {
        assert_eq!(delivery.signature(), Some(sign(&SECRET.into(), &delivery.body).as_str()));
        assert_eq!(delivery.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn a_delivery_is_retried_with_the_same_bytes() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([503, 429, 408, 200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let delivery = organisation.simulator.deliver(plan(json!({"count": 1}))).unwrap();
    let summary = delivery.finished().await;
    assert_eq!(summary.outcomes[&Outcome::Delivered], 1);
    assert_eq!(summary.attempts, 4);

    let received = endpoint.received();
    assert!(received.iter().all(|again| again.body == received[0].body));
    assert!(received.iter().all(|again| again.signature() == received[0].signature()));
    let statuses: Vec<_> = delivery.events()[0].attempts.iter().map(|attempt| attempt.status).collect();
    assert_eq!(statuses, [Some(503), Some(429), Some(408), Some(200)]);
}

#[tokio::test]
async fn waits_between_tries_grow_by_the_multiplier() {
    let organisation = Organisation::with(|config| config.retry_base_delay = Duration::from_millis(20)).await;
    let endpoint = Endpoint::answering([500]).await;
    organisation
        .register(&draft_with(
            "a",
            &endpoint.url,
            "retryPolicy",
            json!({"maxRetries": 2, "backoffMultiplier": 3}),
        ))
        .await;
    let delivery = organisation.simulator.deliver(plan(json!({"count": 1}))).unwrap();
    delivery.finished().await;
    let at: Vec<_> =
        delivery.events()[0].attempts.iter().map(|attempt| attempt.at.as_milliseconds()).collect();
    // A timer may be late but never early; a millisecond is lost to rounding.
    assert!(at[1] - at[0] >= 19, "{at:?}");
    assert!(at[2] - at[1] >= 59, "{at:?}");
}

#[tokio::test]
async fn a_refused_delivery_is_not_retried() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([403]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let summary = organisation.simulator.deliver(plan(json!({"count": 3}))).unwrap().finished().await;
    assert_eq!((summary.outcomes[&Outcome::Dropped], summary.attempts), (3, 3));
    assert_eq!(summary.statuses["403"], 3);
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_exhausts_the_retries() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([503]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let summary = organisation.simulator.deliver(plan(json!({"count": 2}))).unwrap().finished().await;
    assert_eq!((summary.outcomes[&Outcome::Exhausted], summary.attempts), (2, 8));
}

#[tokio::test]
async fn a_missing_answer_is_retried_and_its_cause_recorded() {
    let organisation = Organisation::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", closed.local_addr().unwrap());
    drop(closed);
    organisation.register(&draft("a", &url)).await;
    let delivery = organisation.simulator.deliver(plan(json!({"count": 1}))).unwrap();
    assert_eq!(delivery.finished().await.statuses["none"], 4);
    let record = &delivery.events()[0];
    assert_eq!(record.outcome, Outcome::Exhausted);
    assert!(record.attempts[0].error.as_ref().unwrap().contains("refused"), "{record:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_too_slow_gives_no_answer() {
    let organisation = Organisation::with(|config| config.delivery_timeout = Duration::from_millis(50)).await;
    // Accepts connections, in its backlog, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    organisation
        .register(&draft_with("a", &url, "retryPolicy", json!({"maxRetries": 0, "backoffMultiplier": 1})))
        .await;
    let delivery = organisation.simulator.deliver(plan(json!({"count": 1}))).unwrap();
    delivery.finished().await;
    let record = &delivery.events()[0];
    assert_eq!((record.outcome, record.attempts.len()), (Outcome::Exhausted, 1));
    assert!(record.attempts[0].error.as_ref().unwrap().contains("timed out"), "{record:?}");
}

#[tokio::test]
async fn an_event_is_sent_to_every_enabled_subscriber() {
    let organisation = Organisation::start().await;
    let (both, status_only, disabled) = (
        Endpoint::answering([200]).await,
        Endpoint::answering([200]).await,
        Endpoint::answering([200]).await,
    );
    organisation.register(&draft("both", &both.url)).await;
    organisation
        .register(&draft_with("status", &status_only.url, "eventTypes", json!(["presence:status:changed"])))
        .await;
    organisation.register(&draft_with("disabled", &disabled.url, "enabled", json!(false))).await;
    let summary = organisation.simulator.deliver(plan(json!({"count": 10}))).unwrap().finished().await;
    assert_eq!((summary.events, summary.deliveries), (10, 15));
    assert_eq!(summary.event_types["presence:status:changed"], 10);
    assert_eq!((both.received().len(), disabled.received().len()), (10, 0));
    let types: Vec<_> = status_only.received().iter().map(|received| event_type(&received.body)).collect();
    assert_eq!(types, ["presence:status:changed"; 5]);
}

#[tokio::test]
async fn a_named_registration_gets_types_it_does_not_subscribe_to() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([404]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let unwanted = json!({"count": 1, "registration": "a", "eventTypes": ["conversation:started"]});
    let summary = organisation.simulator.deliver(plan(unwanted)).unwrap().finished().await;
    assert_eq!(summary.outcomes[&Outcome::Dropped], 1);
    assert_eq!(event_type(&endpoint.received()[0].body), "conversation:started");
}

#[tokio::test]
async fn an_event_that_closed_wants_is_counted() {
    let organisation = Organisation::start().await;
    organisation.register(&draft("a", "http://127.0.0.1:9/")).await;
    let unwanted = json!({"count": 3, "eventTypes": ["conversation:started"]});
    let summary = organisation.simulator.deliver(plan(unwanted)).unwrap().finished().await;
    assert_eq!((summary.events, summary.unmatched, summary.deliveries), (3, 3, 0));
}

#[tokio::test]
async fn without_an_enabled_registration_no_run_starts() {
    let organisation = Organisation::start().await;
    organisation.register(&draft_with("a", "http://127.0.0.1:9/", "enabled", json!(false))).await;
    let refused = organisation.simulator.deliver(DeliveryPlan::default());
    assert_eq!(refused.unwrap_err(), PlanError::NoRegistration);
}

#[tokio::test]
async fn a_plan_can_sign_with_another_secret_or_not_at_all() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([403]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    for sign_with in [SignWith::Secret("another".into()), SignWith::Nothing] {
        let plan = DeliveryPlan { count: Some(1), sign_with, ..DeliveryPlan::default() };
        organisation.simulator.deliver(plan).unwrap().finished().await;
    }
    let received = endpoint.received();
    assert_eq!(received[0].signature(), Some(sign(&"another".into(), &received[0].body).as_str()));
    assert_eq!(received[1].signature(), None);
}

#[tokio::test]
async fn listed_events_are_sent_byte_for_byte() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let texts = [
        r#"{ "id" :"1",  "eventType":"presence:state:changed", "big": 12345678901234567890123 }"#,
        r#"{"id":"1","eventType":"presence:state:changed"}"#,
        "[null]",
    ];
    let plan = format!(r#"{{"registration": "a", "concurrency": 1, "events": [{}]}}"#, texts.join(", "));
    let delivery = organisation.simulator.deliver(serde_json::from_str(&plan).unwrap()).unwrap();
    delivery.finished().await;
    let bodies: Vec<_> = endpoint.received().iter().map(|received| received.body.clone()).collect();
    let records = delivery.events();
    for text in texts {
        assert!(bodies.iter().any(|body| body == text), "{text}");
        assert!(records.iter().any(|record| record.body == text), "{text}");
    }
}

#[tokio::test]
async fn a_seed_repeats_the_ids_and_every_other_run_has_its_own() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let mut runs = Vec::new();
    for seed in [Some(1), Some(1), None, None] {
        let plan = DeliveryPlan { count: Some(50), seed, ..DeliveryPlan::default() };
        let delivery = organisation.simulator.deliver(plan).unwrap();
        delivery.finished().await;
        runs.push(delivery.events().iter().map(|event| event.id.clone().unwrap()).collect::<HashSet<_>>());
    }
    assert_eq!(runs[0].len(), 50);
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].is_disjoint(&runs[2]) && runs[2].is_disjoint(&runs[3]));
}

#[tokio::test]
async fn a_stopped_run_abandons_its_retries() {
    let organisation =
        Organisation::with(|config| config.retry_base_delay = Duration::from_secs(3_600)).await;
    let endpoint = Endpoint::answering([503]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let delivery = organisation.simulator.deliver(plan(json!({"count": 2}))).unwrap();
    endpoint.has_received(2).await;
    delivery.stop();
    let summary = delivery.finished().await;
    assert_eq!((summary.state, summary.outcomes[&Outcome::Abandoned]), (RunState::Stopped, 2));
    assert_eq!(summary.in_flight, 0);
}

#[tokio::test]
async fn an_endless_run_ends_when_stopped_or_out_of_time() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let stopped = organisation.simulator.deliver(plan(json!({"ratePerSecond": 1_000}))).unwrap();
    endpoint.has_received(5).await;
    stopped.stop();
    assert_eq!(stopped.finished().await.state, RunState::Stopped);

    let timed =
        organisation.simulator.deliver(plan(json!({"ratePerSecond": 0.001, "maxSeconds": 1}))).unwrap();
    let summary = timed.finished().await;
    assert_eq!((summary.state, summary.events), (RunState::Done, 1));
}

#[tokio::test]
async fn a_changed_registration_counts_from_the_next_event() {
    let organisation = Organisation::start().await;
    let (before, after) = (Endpoint::answering([200]).await, Endpoint::answering([200]).await);
    let id = organisation.register(&draft("a", &before.url)).await;
    let run = organisation.simulator.deliver(plan(json!({"ratePerSecond": 500}))).unwrap();
    before.has_received(3).await;
    let path = format!("{}/{id}", crate::organisation::EVENT_BRIDGES);
    let moved = draft_with("a", &after.url, "secret", json!("rotated"));
    organisation.send(reqwest::Method::PUT, &path, &moved).await;
    after.has_received(3).await;
    run.stop();
    let first = &after.received()[0];
    assert_eq!(first.signature(), Some(sign(&"rotated".into(), &first.body).as_str()));
}

#[tokio::test]
async fn outcomes_can_be_watched() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let mut outcomes = organisation.simulator.outcomes();
    let delivery = organisation.simulator.deliver(plan(json!({"count": 5}))).unwrap();
    for _ in 0..5 {
        let record = outcomes.recv().await.unwrap();
        assert_eq!((record.delivery_id, record.outcome), (delivery.id(), Outcome::Delivered));
    }
}

#[tokio::test]
async fn a_stopped_simulator_leaves_no_run_behind() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let run = organisation.simulator.deliver(plan(json!({"ratePerSecond": 100}))).unwrap();
    organisation.stop().await;
    assert_eq!(run.finished().await.state, RunState::Stopped);
}
