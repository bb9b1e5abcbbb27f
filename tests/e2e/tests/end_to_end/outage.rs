//! Kafka hangs for a while, and no event is lost: the relays answer 503, and Genesys's own retries deliver every event.

use presenceroute_e2e::harness;
use presenceroute_e2e::kafka::Kafka;
use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::steps::{Steps, Stopped, measured, say};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Outcome, ensure};
use serde_json::json;

use crate::deliveries::ensure_none_lost;
use crate::manifests;
use crate::stage::Stage;

const EVENTS: u64 = 40;

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    if !can_be_paused(&stage.kafka) {
        let brokers = &stage.kafka.brokers;
        say(&format!("      left out: {brokers} cannot be paused from here, tests/harness/kafka can be"));
        return Ok(());
    }
    let route = Route::new(&stage.namespace, "outage");
    let name = route.registration_name();
    let topic = stage.topic("outage");
    steps.prove("a route is Ready", || {
        stage.kafka.create_topics(&[&topic])?;
        kubectl::apply(&manifests::secret(stage, "outage-webhook", json!({"secret": "outage"})))?;
        kubectl::apply(&manifests::small_route(stage, &route, "outage-webhook", &topic).to_string())?;
        route.becomes_ready(60).map(drop)
    })?;
    let run = steps.prove("while Kafka hangs, relays answer 503 and accept no event", || {
        let _paused = Paused::now()?;
        let run = stage.simulator.deliver(&name, json!({"count": EVENTS, "concurrency": EVENTS}))?;
        let summary = until("every event has been tried", seconds(20), || {
            let summary = run.summary()?;
            let tries: u64 = summary.statuses.values().sum();
            ensure(tries >= EVENTS, || format!("{summary:?}"))?;
            Ok(summary)
        })?;
        ensure(!summary.statuses.contains_key("200"), || format!("some were accepted: {summary:?}"))?;
        ensure(summary.statuses.contains_key("503"), || format!("none was answered 503: {summary:?}"))?;
        measured(&format!("tries and their answers: {:?}", summary.statuses));
        Ok(run)
    })?;
    steps.prove("when Kafka goes on, Genesys's retries deliver every event", || {
        let deliveries = run.finished(seconds(60))?;
        let lost: Vec<_> = deliveries.iter().filter(|delivery| delivery.outcome != "delivered").collect();
        ensure(lost.is_empty(), || format!("{} were not delivered: {lost:#?}", lost.len()))?;
        let repeated = ensure_none_lost(stage, &topic, deliveries.iter())?;
        measured(&format!(
            "all {EVENTS} events are in the topic; {repeated} records are repetitions by an event that was in doubt"
        ));
        Ok(())
    })?;
    steps.prove("the route is Ready again, and is deleted", || {
        route.becomes_ready(30)?;
        route.delete()
    })
}

/// Only the harness's own Kafka can be paused.
pub(crate) fn can_be_paused(kafka: &Kafka) -> bool {
    kafka.brokers == "127.0.0.1:19092"
}

/// A run that was killed at the wrong moment left the broker hanging.
pub(crate) fn end_an_earlier_one(kafka: &Kafka) -> Outcome {
    if can_be_paused(kafka) { harness::run("kafka", &["resume"]).map(drop) } else { Ok(()) }
}

/// A broker that hangs until this is dropped.
pub(crate) struct Paused;

impl Paused {
    pub(crate) fn now() -> Outcome<Self> {
        harness::run("kafka", &["pause"]).map(|_| Self)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(failure) = harness::run("kafka", &["resume"]).map(drop) {
            say(&format!("      Kafka still hangs: {failure}"));
        }
    }
}
