//! Whether messages are received: not while Kafka is away, because each receive counts towards the queue's dead-letter
//! queue.
//!
//! A delivery that Kafka does not acknowledge closes the gate. While a broker answers all the same, one message is kept as
//! a trial and delivered again and again, which counts no receive; its success opens the gate. While none answers, nothing
//! is kept: another relay may reach Kafka. When one answers again, a single message is received for a trial.

use parking_lot::Mutex;
use tokio::sync::watch;

/// How many messages may be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As many as are worked off.
    Open,
    /// One, for a trial.
    Trial,
    /// None.
    Closed,
}

/// The gate of one relay.
pub(super) struct Gate {
    admission: watch::Sender<Admission>,
    state: Mutex<State>,
}

struct State {
    /// Whether a broker answered lately, and a routing table is there.
    is_reachable: bool,
    /// Whether a delivery failed since the last one that succeeded.
    has_failed: bool,
    /// Whether one message is kept as a trial, or is being received for it.
    has_trial: bool,
}

/// The one message that is kept as a trial.
pub(super) struct Trial<'g>(&'g Gate);

impl Gate {
    /// Closed, until a broker answers.
    pub(super) fn new() -> Self {
        let state = State { is_reachable: false, has_failed: false, has_trial: false };
        Self { admission: watch::Sender::new(Admission::Closed), state: Mutex::new(state) }
    }

    /// How many messages may be received, and a way to wait for a change of it.
    pub(super) fn admission(&self) -> watch::Receiver<Admission> {
        self.admission.subscribe()
    }

    /// Whether a broker answers and there is a routing table, as it is now.
    pub(super) fn reachable(&self, is_reachable: bool) {
        self.change(|state| state.is_reachable = is_reachable);
    }

    /// An event was delivered.
    pub(super) fn succeeded(&self) {
        if self.state.lock().has_failed {
            self.change(|state| state.has_failed = false);
        }
    }

    /// An event was not delivered, and may be without any change.
    pub(super) fn failed(&self) {
        self.change(|state| state.has_failed = true);
    }

    /// Whether this message is the trial, of those whose delivery failed. Only while a broker answers.
    pub(super) fn keep_as_trial(&self) -> Option<Trial<'_>> {
        let mut kept = false;
        self.change(|state| {
            kept = state.is_reachable && !state.has_trial;
            state.has_trial |= kept;
        });
        kept.then(|| Trial(self))
    }

    /// Whether a trial is worth being kept.
    pub(super) fn is_reachable(&self) -> bool {
        self.state.lock().is_reachable
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let admission = match *state {
            State { is_reachable: false, .. } => Admission::Closed,
            State { has_failed: false, .. } => Admission::Open,
            State { has_trial: true, .. } => Admission::Closed,
            State { has_trial: false, .. } => Admission::Trial,
        };
        self.admission.send_if_modified(|now| std::mem::replace(now, admission) != admission);
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.has_trial = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(gate: &Gate) -> Admission {
        *gate.admission.borrow()
    }

    #[test]
    fn nothing_is_received_until_a_broker_answers() {
        let gate = Gate::new();
        assert_eq!(now(&gate), Admission::Closed);
        gate.reachable(true);
        assert_eq!(now(&gate), Admission::Open);
        gate.reachable(false);
        assert_eq!(now(&gate), Admission::Closed);
    }

    #[test]
    fn a_failed_delivery_closes_until_its_trial_succeeds() {
        let gate = Gate::new();
        gate.reachable(true);
        gate.failed();
        let trial = gate.keep_as_trial().unwrap();
        assert!(gate.keep_as_trial().is_none(), "one is enough");
        assert_eq!(now(&gate), Admission::Closed);
        gate.failed();
        assert_eq!(now(&gate), Admission::Closed);
        gate.succeeded();
        assert_eq!(now(&gate), Admission::Open);
        drop(trial);
        assert_eq!(now(&gate), Admission::Open);
    }

    #[test]
    fn no_trial_is_kept_while_no_broker_answers() {
        let gate = Gate::new();
        gate.reachable(true);
        gate.failed();
        gate.reachable(false);
        assert!(gate.keep_as_trial().is_none());
        assert_eq!(now(&gate), Admission::Closed);
        gate.reachable(true);
        assert_eq!(now(&gate), Admission::Trial);
        gate.succeeded();
        assert_eq!(now(&gate), Admission::Open);
    }

    #[test]
    fn a_trial_that_ended_otherwise_makes_room_for_the_next() {
        let gate = Gate::new();
        gate.reachable(true);
        gate.failed();
        drop(gate.keep_as_trial());
        assert_eq!(now(&gate), Admission::Trial);
    }
}
