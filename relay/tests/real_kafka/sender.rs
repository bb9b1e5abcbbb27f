//! Senders as Genesys Cloud is one: each agent's events one after another, each repeated byte for byte until it is
//! accepted; and what must then be in the topic.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{Consumed, SECRET, exchange, signed};

/// How long a sender waits before it repeats an event that was refused.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Agents whose events are on their way until [`Flow::stop`].
pub(crate) struct Flow {
    stop: Arc<AtomicBool>,
    agents: JoinSet<Sent>,
}

/// What one agent's events were answered.
#[derive(Default)]
pub(crate) struct Sent {
    /// The ids that were accepted, in the order in which they were sent.
    pub(crate) accepted: Vec<String>,
    /// How often each status was answered.
    pub(crate) statuses: BTreeMap<u16, usize>,
    /// How often each problem was answered, by its name.
    pub(crate) problems: BTreeMap<String, usize>,
}

impl Flow {
    /// So many agents, each of which sends an event, waits for its answer, and pauses.
    pub(crate) fn start(relay: SocketAddr, agents: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let agents = (0..agents).map(|agent| send(relay, agent, pause, Arc::clone(&stop))).collect();
        Self { stop, agents }
    }

    /// Sends nothing new, waits until what was sent has been accepted, and gives what each agent sent, by its name.
    pub(crate) async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        while let Some(sent) = self.agents.join_next().await {
            outcome.agents.push(sent.unwrap());
        }
        outcome
    }
}

async fn send(relay: SocketAddr, agent: usize, pause: Duration, stop: Arc<AtomicBool>) -> Sent {
    let mut sent = Sent::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{agent}-{number}");
        let body = format!(
            r#"{{"id":"{id}","eventType":"presence:state:changed","attributes":{{"userId":"agent-{agent}"}}}}"#
        );
        loop {
            let answer = exchange(relay, &signed(SECRET, body.as_bytes())).await;
            *sent.statuses.entry(answer.status).or_default() += 1;
            if answer.status == 200 {
                break;
            }
            assert_eq!(answer.status, 503, "{}", answer.body);
            *sent.problems.entry(answer.problem()).or_default() += 1;
            tokio::time::sleep(RETRY_AFTER).await;
        }
        sent.accepted.push(id);
        tokio::time::sleep(pause).await;
    }
    sent
}

/// What all agents' events were answered.
#[derive(Default)]
pub(crate) struct Outcome {
    agents: Vec<Sent>,
}

impl Outcome {
    /// How often each status was answered.
    pub(crate) fn statuses(&self) -> BTreeMap<u16, usize> {
        let mut all = BTreeMap::new();
        for (status, count) in self.agents.iter().flat_map(|agent| &agent.statuses) {
            *all.entry(*status).or_default() += count;
        }
        all
    }

    /// How often each problem was answered, by its name.
    pub(crate) fn problems(&self) -> BTreeMap<&str, usize> {
        let mut all = BTreeMap::new();
        for (problem, count) in self.agents.iter().flat_map(|agent| &agent.problems) {
            *all.entry(problem.as_str()).or_default() += count;
        }
        all
    }

    /// Fails unless everything that was accepted is among the records, each agent's events in the order in which they
    /// were sent. Gives how many records are repetitions.
    pub(crate) fn ensure_kept_in_order(&self, records: &[Consumed]) -> usize {
        let mut kept: HashMap<&str, Vec<String>> = HashMap::new();
        let mut repetitions = 0;
        for record in records {
            let id = &record.headers["ce_id"];
            let events = kept.entry(&record.key).or_default();
            if events.contains(id) {
                repetitions += 1;
            } else {
                events.push(id.clone());
            }
        }
        for sent in &self.agents {
            let Some(agent) = sent.accepted.first().and_then(|id| id.split('-').next()) else { continue };
            let key = format!("agent-{agent}");
            assert_eq!(kept.get(key.as_str()), Some(&sent.accepted), "the events of {key}");
        }
        repetitions
    }
}
