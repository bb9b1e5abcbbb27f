//! The Genesys simulator in the cluster: what is registered there, and deliveries from there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::kubectl::Proxy;
use crate::wait::{seconds, until};
use crate::{Failure, Outcome, ensure};

/// The simulator's control API.
#[derive(Clone, Debug)]
pub struct Simulator {
    control: Proxy,
}

/// A registration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// Given by the simulator.
    pub id: String,
    /// Given by the operator.
    pub name: String,
    /// Whether it gets events.
    pub enabled: bool,
    /// Where they are sent.
    pub url: String,
    /// Which it gets.
    pub event_types: Vec<String>,
    /// The beginning of the SHA-256 of what they are signed with.
    pub secret_fingerprint: String,
}

/// An integration with Amazon EventBridge.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Integration {
    /// Given by the simulator.
    pub id: String,
    /// Whether it is to send.
    pub enabled: bool,
    /// Its reported state.
    pub state: String,
    /// The full name of its event source, once it has a configuration.
    pub event_source: Option<String>,
}

/// How a run of deliveries stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// `running`, `done` or `stopped`.
    pub state: String,
    /// Events made so far.
    pub events: u64,
    /// How many deliveries had each outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// How many tries had each answer; `none` is no answer.
    pub statuses: BTreeMap<String, u64>,
}

/// What became of one event.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The event's id.
    pub id: String,
    /// The event's type.
    pub event_type: String,
    /// The SHA-256 of what was sent.
    pub body_sha256: String,
    /// The user that an envelope of the event bus tells of.
    pub user_id: Option<String>,
    /// The SHA-256 of such an envelope's `detail`.
    pub detail_sha256: Option<String>,
    /// `delivered`, `dropped`, `exhausted` or `abandoned`.
    pub outcome: String,
    /// Every try.
    pub attempts: Vec<Attempt>,
}

/// One try.
#[derive(Clone, Debug, Deserialize)]
pub struct Attempt {
    /// The answer's status.
    pub status: Option<u16>,
    /// Why there was no answer.
    pub error: Option<String>,
    /// The beginning of an answer that was a refusal.
    pub answer: Option<String>,
}

impl Simulator {
    /// The one that deploy/examples/genesys-simulator.yaml puts into this namespace.
    pub fn new(namespace: &str) -> Self {
        Self::named(namespace, "genesys-simulator")
    }

    /// The one behind the Service of this name.
    pub fn named(namespace: &str, service: &str) -> Self {
        Self { control: Proxy::service(namespace, service, 8090) }
    }

    /// Fails unless it answers.
    pub fn answers(&self) -> Outcome {
        self.control.get::<Value>("/control/health").map(drop)
    }

    /// Everything that is registered under this name: one, if all is well.
    pub fn registrations(&self, name: &str) -> Outcome<Vec<Registration>> {
        let all: Vec<Registration> = self.control.get("/control/registrations")?;
        Ok(all.into_iter().filter(|registration| registration.name == name).collect())
    }

    /// The one registration of this name.
    pub fn registration(&self, name: &str) -> Outcome<Registration> {
        let mut found = self.registrations(name)?;
        ensure(found.len() == 1, || format!("{} registrations are called {name}: {found:?}", found.len()))?;
        found.pop().ok_or_else(|| Failure(format!("no registration is called {name}")))
    }

    /// The integrations whose event source ends so.
    pub fn integrations(&self, event_source_suffix: &str) -> Outcome<Vec<Integration>> {
        let all: Vec<Integration> = self.control.get("/control/integrations")?;
        let suffix = format!("/{event_source_suffix}");
        let is_of = |it: &Integration| it.event_source.as_ref().is_some_and(|name| name.ends_with(&suffix));
        Ok(all.into_iter().filter(is_of).collect())
    }

    /// The one integration whose event source ends so.
    pub fn integration(&self, event_source_suffix: &str) -> Outcome<Integration> {
        let mut found = self.integrations(event_source_suffix)?;
        ensure(found.len() == 1, || {
            format!("{} integrations are of {event_source_suffix}: {found:?}", found.len())
        })?;
        found.pop().ok_or_else(|| Failure(format!("no integration is of {event_source_suffix}")))
    }

    /// Has the event bus deliver as these rules say, and no others.
    pub fn set_event_bus_rules(&self, rules: &Value) -> Outcome {
        self.control.put("/control/event-bus/rules", rules)
    }

    /// Begins to change the presence of agents, as `plan` says.
    pub fn change_presence(&self, plan: &Value) -> Outcome<Run<'_>> {
        self.started(self.control.post("/control/presence-changes", plan)?)
    }

    /// Begins to deliver to the registration of this name, as `plan` says.
    pub fn deliver(&self, registration: &str, mut plan: Value) -> Outcome<Run<'_>> {
        plan["registration"] = json!(registration);
        self.started(self.control.post("/control/deliveries", &plan)?)
    }

    fn started(&self, started: Value) -> Outcome<Run<'_>> {
        let id = started["id"].as_str().ok_or_else(|| Failure(format!("a run without an id: {started}")))?;
        Ok(Run { simulator: self, id: id.to_owned() })
    }
}

/// Deliveries that were asked for together.
pub struct Run<'s> {
    simulator: &'s Simulator,
    id: String,
}

impl Run<'_> {
    /// How it stands.
    pub fn summary(&self) -> Outcome<Summary> {
        self.simulator.control.get(&format!("/control/deliveries/{}", self.id))
    }

    /// Waits until so many more have been delivered.
    pub fn flows(&self, more: u64) -> Outcome {
        let delivered = |summary: &Summary| summary.outcomes.get("delivered").copied().unwrap_or(0);
        let goal = delivered(&self.summary()?) + more;
        until(&format!("{goal} events are delivered"), seconds(60), || {
            let summary = self.summary()?;
            ensure(delivered(&summary) >= goal, || format!("{summary:?}"))
        })
    }

    /// Makes no more events, and waits until those on their way have arrived. A run that is stopped would abandon
    /// those that wait for a retry, so that this is for runs in which every try is expected to succeed.
    pub fn stop(&self) -> Outcome<Vec<Delivery>> {
        self.simulator.control.delete(&format!("/control/deliveries/{}", self.id))?;
        self.finished(seconds(30))
    }

    /// Makes no more events, waits until those that were made have arrived, also by retries, and gives what became of
    /// every one.
    pub fn ends_by_itself(&self, patience: Duration) -> Outcome<Vec<Delivery>> {
        self.simulator.control.delete(&format!("/control/deliveries/{}?finish=true", self.id))?;
        self.finished(patience)
    }

    /// Waits for its end, and gives what became of every event.
    pub fn finished(&self, patience: Duration) -> Outcome<Vec<Delivery>> {
        let deadline = Instant::now() + patience;
        loop {
            let summary: Summary =
                self.simulator.control.get(&format!("/control/deliveries/{}?waitSeconds=5", self.id))?;
            if summary.state != "running" {
                return self.simulator.control.get(&format!("/control/deliveries/{}/events", self.id));
            }
            ensure(Instant::now() < deadline, || {
                format!("the deliveries did not end within {} s: {summary:?}", patience.as_secs())
            })?;
        }
    }
}

/// Fails unless every event was delivered at the first try.
pub fn ensure_all_accepted(deliveries: &[Delivery]) -> Outcome {
    let failed: Vec<_> = deliveries
        .iter()
        .filter(|delivery| {
            delivery.outcome != "delivered"
                || delivery.attempts.iter().any(|attempt| attempt.status != Some(200))
        })
        .collect();
    ensure(failed.is_empty(), || {
        let first = &failed[..failed.len().min(3)];
        format!(
            "{} of {} deliveries had a try that failed; the first: {first:#?}",
            failed.len(),
            deliveries.len()
        )
    })
}
