//! The steps of the operator, counted as they pass by, and the one at which it dies.

use std::fmt;
use std::process::Child;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::Outcome;

/// Without a step for so long, the operator has nothing left to do.
const QUIET: Duration = Duration::from_secs(1);

/// When the operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The request has been sent and is not carried out.
    Before,
    /// It has been carried out, and the answer does not arrive.
    After,
    /// It is carried out when the next operator is done, as by a server that takes its time.
    Late,
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Late => "late",
        })
    }
}

/// One request of the operator that changes something, or asks Genesys.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Counted from 1 in its flow.
    pub(crate) number: usize,
    /// The method and what it is about.
    pub(crate) what: String,
}

impl Step {
    /// Whether something new comes to be at Genesys by it.
    pub(crate) fn is_creation(&self) -> bool {
        self.what.starts_with("Genesys: creation")
    }

    /// The method and the kind of object, without its name.
    pub(crate) fn kind(&self) -> &str {
        kind(&self.what)
    }
}

/// The kind of a write to the Secret with the OAuth clients that are kept.
pub(crate) const KEPT_CLIENTS: &str = "PATCH kept clients";

fn kind(what: &str) -> &str {
    if what.starts_with("PATCH secrets ") && what.ends_with("-deregistration") {
        return KEPT_CLIENTS;
    }
    what.rsplit_once(' ').map_or(what, |(kind, _)| kind)
}

/// Which step the operator is killed at.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// The n-th of all, counted from 1.
    Number(usize),
    /// The n-th of its kind, counted from 1.
    Kind(String, usize),
}

/// What is to become of a request.
pub(crate) enum Verdict {
    Pass,
    /// The operator is killed at it.
    Kill(Side),
}

/// All steps, and the operator that makes them.
#[derive(Default)]
pub(crate) struct Steps {
    state: Mutex<State>,
    /// A request that is carried out late: let go, and then carried out.
    late: (Notify, Notify),
}

#[derive(Default)]
struct State {
    operator: Option<Child>,
    crash: Option<(At, Side)>,
    /// Counted while a flow is played.
    counting: bool,
    seen: Vec<Step>,
    dying_at: Option<Step>,
    crashed: Option<Step>,
    last: Option<Instant>,
    armed: Option<Instant>,
}

impl Steps {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// From now on this is the operator.
    pub(crate) fn watch(&self, operator: Child) {
        self.state().operator = Some(operator);
    }

    /// Counts from now on, and kills the operator at this step.
    pub(crate) fn arm(&self, crash: Option<(At, Side)>) {
        let mut state = self.state();
        state.seen.clear();
        state.crashed = None;
        state.crash = crash;
        state.counting = true;
        state.armed = Some(Instant::now());
        state.last = state.armed;
    }

    /// Counts no more, and gives what was counted.
    pub(crate) fn disarm(&self) -> Vec<Step> {
        let mut state = self.state();
        state.crash = None;
        state.counting = false;
        std::mem::take(&mut state.seen)
    }

    /// The step at which the operator was killed.
    pub(crate) fn crashed(&self) -> Option<Step> {
        self.state().crashed.clone()
    }

    /// Whether there was a step of this kind since the last time that something was armed.
    pub(crate) fn saw(&self, kind: &str) -> bool {
        self.state().seen.iter().any(|step| step.kind() == kind)
    }

    /// Whether there has been no step for a while.
    pub(crate) fn are_quiet(&self) -> bool {
        self.state().last.is_none_or(|last| last.elapsed() > QUIET)
    }

    /// Fails when a flow takes longer than it may, and reports how far it came.
    pub(crate) fn ensure_in_time(&self, patience: Duration) -> Outcome {
        let state = self.state();
        if state.armed.is_none_or(|armed| armed.elapsed() < patience) {
            return Ok(());
        }
        let steps: Vec<_> = state.seen.iter().map(|step| step.what.as_str()).collect();
        Err(format!("the flow has not ended; its steps: {}", steps.join(", ")).into())
    }

    /// A request arrives.
    pub(crate) fn arrive(&self, what: String) -> Verdict {
        let mut state = self.state();
        state.last = Some(Instant::now());
        if !state.counting {
            return Verdict::Pass;
        }
        let number = state.seen.len() + 1;
        let of_its_kind = 1 + state.seen.iter().filter(|seen| seen.kind() == kind(&what)).count();
        let is_due = |at: &At| match at {
            At::Number(wanted) => *wanted == number,
            At::Kind(wanted, nth) => wanted == kind(&what) && *nth == of_its_kind,
        };
        let side = state.crash.as_ref().filter(|(at, _)| is_due(at)).map(|(_, side)| *side);
        let step = Step { number, what };
        state.seen.push(step.clone());
        let Some(side) = side else { return Verdict::Pass };
        // What still comes from the one that is about to die is no step of the flow.
        state.crash = None;
        state.counting = false;
        state.dying_at = Some(step);
        Verdict::Kill(side)
    }

    /// Waits until a request may be carried out late.
    pub(crate) async fn may_come_late(&self) {
        self.late.0.notified().await;
    }

    /// The request was carried out late.
    pub(crate) fn came_late(&self) {
        self.late.1.notify_one();
    }

    /// Has the request carried out that was kept for later.
    pub(crate) async fn let_come_late(&self) {
        self.late.0.notify_one();
        self.late.1.notified().await;
    }

    /// Kills the operator, as the kernel does when memory is short: nothing is finished or announced.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        if let Some(mut operator) = state.operator.take() {
            // It fails only for a process that has ended already.
            let _ = operator.kill();
            let _ = operator.wait();
        }
        state.crashed = state.dying_at.take();
    }
}
