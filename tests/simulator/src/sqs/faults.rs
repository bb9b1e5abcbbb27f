//! Failures of calls, on request.

use super::protocol::SqsError;

/// What the next calls of an action do instead of their work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SqsFault {
    /// The next calls are refused whole.
    Refuse {
        /// The action, such as `ReceiveMessage`.
        action: String,
        /// How many calls.
        times: u64,
        /// The answer's status.
        status: u16,
        /// The error's code, such as `AccessDenied`.
        code: String,
        /// The error's message.
        message: String,
    },
    /// In the next batches the first entry fails, and the others are done.
    FailFirstEntry {
        /// The action, such as `DeleteMessageBatch`.
        action: String,
        /// How many calls.
        times: u64,
        /// The entry's code, such as `InternalError`.
        code: String,
        /// Whether the sender is to blame, so that a repetition fails as well.
        sender_fault: bool,
    },
}

impl SqsFault {
    fn action_and_times(&mut self) -> (&str, &mut u64) {
        match self {
            Self::Refuse { action, times, .. } | Self::FailFirstEntry { action, times, .. } => {
                (action, times)
            }
        }
    }
}

/// Why the first entry of a batch fails.
#[derive(Clone, Debug)]
pub(super) struct FailedEntry {
    pub(super) code: String,
    pub(super) sender_fault: bool,
}

/// The faults that are not used up, in the order in which they were asked for.
#[derive(Default)]
pub(super) struct Faults(Vec<SqsFault>);

impl Faults {
    pub(super) fn add(&mut self, fault: SqsFault) {
        self.0.push(fault);
    }

    /// Uses up one call of the first fault of that action: a refusal, or how the first entry fails.
    pub(super) fn take(&mut self, action: &str) -> Result<Option<FailedEntry>, SqsError> {
        let due = self.0.iter_mut().position(|fault| {
            let (wanted, times) = fault.action_and_times();
            wanted == action && *times > 0
        });
        let Some(fault) = due.and_then(|position| self.0.get_mut(position)) else { return Ok(None) };
        *fault.action_and_times().1 -= 1;
        let answer = match fault.clone() {
            SqsFault::Refuse { status, code, message, .. } => Err(SqsError::requested(status, code, message)),
            SqsFault::FailFirstEntry { code, sender_fault, .. } => {
                Ok(Some(FailedEntry { code, sender_fault }))
            }
        };
        self.0.retain_mut(|fault| *fault.action_and_times().1 > 0);
        answer
    }
}
