//! The partner event bus of Amazon EventBridge, with its rules. Active integrations send the presence changes of simulated
//! agents to it; each rule that matches passes an envelope to its target, with Amazon EventBridge's own retries.

mod api_destination;
mod changes;
mod retry;
mod rule;
mod sqs;

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

pub use changes::PresencePlan;
pub use rule::{
    ApiDestinationTarget, BusRule, RuleError, SqsCredentials, SqsTarget, Target, TargetRetryPolicy,
};

use crate::Simulator;
use crate::config::Config;
use crate::delivery::{Attempt, build_client, milliseconds};
use crate::moment::Moment;
use crate::{StartError, event_bus::api_destination::ApiDestination, event_bus::sqs::Queue};
use retry::Verdict;

/// The rules in force, and the clients of their targets.
pub(crate) struct EventBus {
    rules: Vec<Arc<Rule>>,
    /// One connection for each request.
    closing_client: reqwest::Client,
    client: reqwest::Client,
}

impl EventBus {
    /// A bus without rules.
    ///
    /// # Errors
    /// Those of the clients, see [`build_client`].
    pub(crate) fn new(config: &Config, client: reqwest::Client) -> Result<Self, StartError> {
        let closing_client = build_client(config, || {
            reqwest::Client::builder().http1_only().pool_max_idle_per_host(0).timeout(config.delivery_timeout)
        })?;
        Ok(Self { rules: Vec::new(), closing_client, client })
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }
}

/// A rule and what sends to its target.
struct Rule {
    spec: BusRule,
    sender: Sender,
}

enum Sender {
    Sqs(Queue),
    ApiDestination(Box<ApiDestination>),
}

impl Rule {
    /// Sends an envelope to the target once.
    async fn send(&self, envelope: &Bytes) -> Tried {
        match &self.sender {
            Sender::Sqs(queue) => queue.send(envelope.clone()).await,
            Sender::ApiDestination(destination) => destination.send(envelope.clone()).await,
        }
    }
}

/// One try at a target.
struct Tried {
    attempt: Attempt,
    latency: Duration,
    verdict: Verdict,
}

/// What came of a request.
struct Answer {
    status: Option<u16>,
    error: Option<String>,
    /// The beginning of an answer that was not a success.
    text: Option<String>,
    verdict: Verdict,
}

impl Answer {
    /// No answer, which is tried again.
    fn none(error: String) -> Self {
        let verdict = Verdict::TryAgain { retry_after: None };
        Self { status: None, error: Some(error), text: None, verdict }
    }

    /// A try that began then and has ended now.
    fn since(self, at: Moment, start: Instant) -> Tried {
        let latency = start.elapsed();
        let Self { status, error, text, verdict } = self;
        let attempt = Attempt { at, status, error, answer: text, latency_ms: milliseconds(latency) };
        Tried { attempt, latency, verdict }
    }
}

impl Simulator {
    /// Replaces the rules of the event bus; an event that is being sent keeps its rule. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`RuleError`] names the rule and what is wrong with it; the rules in force stay.
    pub fn set_event_bus_rules(&self, rules: Vec<BusRule>) -> Result<(), RuleError> {
        rule::check_all(&rules)?;
        let mut bus = self.inner.event_bus.lock();
        bus.rules = rules
            .into_iter()
            .map(|spec| {
                let sender = match &spec.target {
                    Target::Sqs(target) => Sender::Sqs(Queue::new(target, bus.client.clone())?),
                    Target::ApiDestination(target) => {
                        let destination = ApiDestination::new(target, bus.closing_client.clone())?;
                        Sender::ApiDestination(Box::new(destination))
                    }
                };
                Ok(Arc::new(Rule { spec, sender }))
            })
            .collect::<Result<_, String>>()
            .map_err(RuleError)?;
        Ok(())
    }

    /// The rules of the event bus.
    #[must_use]
    pub fn event_bus_rules(&self) -> Vec<BusRule> {
        self.inner.event_bus.lock().rules.iter().map(|rule| rule.spec.clone()).collect()
    }

    fn rules(&self) -> Vec<Arc<Rule>> {
        self.inner.event_bus.lock().rules.clone()
    }
}
