//! Whether Genesys Cloud signs with a secret that the relays do not know, although it has confirmed theirs. It never
//! shows a secret, so that only the relays can tell: they refuse every event for its signature.
//!
//! Anybody can send the relays a wrong signature. It costs one call in five minutes at most, and none while a single
//! good one comes in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use presenceroute_core::relay_status::SignaturesReport;

/// The secret of a route is not sent again for this reason before this time is over.
const AT_MOST_EVERY: Duration = Duration::from_secs(300);

/// What the relays of one route have reported of signatures.
#[derive(Default)]
pub struct SecretDrift {
    /// By pod.
    reported: BTreeMap<String, SignaturesReport>,
    /// Refused since the last good signature.
    refused: u64,
    sent: Option<Instant>,
}

impl SecretDrift {
    /// Takes up what every pod reports now; a pod that cannot be asked reports nothing.
    pub fn observe<'p>(&mut self, pods: impl IntoIterator<Item = (&'p str, Option<SignaturesReport>)>) {
        let before = std::mem::take(&mut self.reported);
        let (mut accepted, mut refused) = (0, 0);
        for (pod, report) in pods {
            let last = before.get(pod).copied().unwrap_or_default();
            let now = report.unwrap_or(last);
            // A counter that went back is a container that started anew.
            let restarted = now.accepted < last.accepted || now.refused < last.refused;
            let last = if restarted { SignaturesReport::default() } else { last };
            accepted += now.accepted - last.accepted;
            refused += now.refused - last.refused;
            self.reported.insert(pod.to_owned(), now);
        }
        self.refused = if accepted > 0 { 0 } else { self.refused + refused };
    }

    /// How many signatures were refused since the last good one.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether the secret is to be sent again: something was refused, nothing accepted since, and the last time is
    /// long enough ago.
    pub fn is_due(&self, now: Instant) -> bool {
        self.refused > 0 && self.sent.is_none_or(|sent| now.duration_since(sent) >= AT_MOST_EVERY)
    }

    /// The secret was sent.
    pub fn sent(&mut self, now: Instant) {
        self.refused = 0;
        self.sent = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(accepted: u64, refused: u64) -> Option<SignaturesReport> {
        Some(SignaturesReport { accepted, refused })
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn refusals_with_no_good_signature_among_them_are_a_drift() {
        let (mut drift, now) = (SecretDrift::default(), Instant::now());
        drift.observe([("a", report(100, 0)), ("b", report(90, 0))]);
        assert!(!drift.is_due(now));
        drift.observe([("a", report(100, 0)), ("b", report(90, 3))]);
        assert!(drift.is_due(now));
        assert_eq!(drift.refused(), 3);
    }

    #[test]
    fn one_good_signature_anywhere_is_none() {
        let (mut drift, now) = (SecretDrift::default(), Instant::now());
        drift.observe([("a", report(0, 0)), ("b", report(0, 0))]);
        drift.observe([("a", report(0, 1000)), ("b", report(1, 0))]);
        assert!(!drift.is_due(now));
        drift.observe([("a", report(0, 1001)), ("b", report(1, 0))]);
        assert_eq!(drift.refused(), 1, "what came before the good one is forgotten");
    }

    #[test]
    fn whoever_sends_garbage_causes_one_call_in_five_minutes() {
        let (mut drift, start) = (SecretDrift::default(), Instant::now());
        let mut sent = 0;
        for second in 0..3600 {
            drift.observe([("a", report(7, second * 10))]);
            let now = start + seconds(second);
            if drift.is_due(now) {
                drift.sent(now);
                sent += 1;
            }
        }
        assert_eq!(sent, 12);
    }

    #[test]
    fn a_container_that_starts_anew_is_counted_from_nothing() {
        let (mut drift, now) = (SecretDrift::default(), Instant::now());
        drift.observe([("a", report(100, 5))]);
        drift.observe([("a", report(0, 2))]);
        assert!(drift.is_due(now));
        assert_eq!(drift.refused(), 2);
    }

    #[test]
    fn a_pod_that_cannot_be_asked_changes_nothing() {
        let mut drift = SecretDrift::default();
        drift.observe([("a", report(10, 1))]);
        drift.observe([("a", None)]);
        drift.observe([("a", report(10, 2))]);
        assert_eq!(drift.refused(), 1);
    }
}
