//! One log line a request, rate-limited so that a sender cannot fill a disk.
//!
//! An accepted event is a line at debug; one that is invalid and was published all the same is a line at warn, once in a
//! [`WINDOW`] with the number of those before it. A rejection is a line at warn, of each kind the first [`LINES`] in a
//! [`WINDOW`]; the others are lines at debug, and counted in a summary when the window ends.
//! No line holds a secret or a part of a body except an event's id, and that only when the signature was verified.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::trace_context::Trace;
use crate::outcome::{Delivered, Outcome, Problem, ProblemKind};

/// How many rejections of one kind are logged at warn in one [`WINDOW`].
const LINES: u64 = 5;

/// The time between two summaries.
const WINDOW: Duration = Duration::from_secs(60);

/// Rate-limits a log line to one per minute and counts the suppressed ones.
#[derive(Debug, Default)]
pub(crate) struct RateLimitedLog {
    logged: Option<Instant>,
    suppressed: u64,
}

impl RateLimitedLog {
    /// Counts one occurrence. Returns how many there were since the last line, when a line is due.
    pub(crate) fn count(&mut self) -> Option<u64> {
        self.suppressed += 1;
        if self.logged.is_some_and(|logged| logged.elapsed() < WINDOW) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Logs how requests ended.
pub struct RequestLog {
    /// The PresenceRoute that the relay serves, where it is known.
    route: Option<String>,
    /// How many of each kind were rejected in this window.
    rejected: [AtomicU64; ProblemKind::ALL.len()],
    invalid: Mutex<RateLimitedLog>,
}

impl RequestLog {
    /// The log of a relay that serves this route.
    pub fn new(route: Option<String>) -> Self {
        Self { route, rejected: Default::default(), invalid: Mutex::default() }
    }

    /// An event was delivered.
    pub fn accepted(&self, delivered: Delivered, event_id: &str, trace: Trace<'_>) {
        let outcome = Outcome::Delivered(delivered);
        tracing::debug!(
            route = self.route,
            outcome = outcome.name(),
            status = outcome.status().as_u16(),
            event_id = %Escaped(event_id),
            trace_id = trace.id(),
            "answered"
        );
    }

    /// What is invalid was published to the topic for that.
    pub fn dead_lettered(&self, problem: &Problem, topic: &str, event_id: Option<&str>, trace: Trace<'_>) {
        let (route, outcome) =
            (self.route.as_deref(), Outcome::Delivered(Delivered::InvalidDeadLettered).name());
        let event_id = event_id.map(Escaped).map(tracing::field::display);
        let (reason, detail, trace_id) = (problem.kind.name(), &problem.detail, trace.id());
        const MESSAGE: &str = "invalid event published to its dead-letter topic";
        match self.invalid.lock().count() {
            Some(events) => {
                tracing::warn!(route, outcome, events, reason, topic, event_id, trace_id, %detail, "{MESSAGE}");
            }
            None => tracing::debug!(route, outcome, reason, topic, event_id, trace_id, %detail, "{MESSAGE}"),
        }
    }

    /// A request was rejected.
    pub fn rejected(&self, problem: &Problem, trace: Trace<'_>) {
        let Problem { kind, detail, event_id, .. } = problem;
        let event_id = event_id.as_deref().map(Escaped).map(tracing::field::display);
        let (route, status) = (self.route.as_deref(), kind.status().as_u16());
        let (outcome, trace_id) = (kind.name(), trace.id());
        // A line's level is fixed at compile time, hence two of them.
        if self.rejected[*kind as usize].fetch_add(1, Ordering::Relaxed) < LINES {
            tracing::warn!(route, outcome, status, event_id, trace_id, %detail, "request rejected");
        } else {
            tracing::debug!(route, outcome, status, event_id, trace_id, %detail, "request rejected");
        }
    }

    /// Logs at the end of each window how many rejections there were, where some were suppressed, until `stop`.
    pub async fn summarise(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(WINDOW)).await.is_some() {
            self.end_window();
        }
        self.end_window();
    }

    fn end_window(&self) {
        for (kind, count) in ProblemKind::ALL.iter().zip(&self.rejected) {
            let rejected = count.swap(0, Ordering::Relaxed);
            if rejected > LINES {
                tracing::warn!(
                    route = self.route,
                    outcome = kind.name(),
                    status = kind.status().as_u16(),
                    rejected,
                    within_seconds = WINDOW.as_secs(),
                    "requests rejected (summary)"
                );
            }
        }
    }
}

/// Text that a sender chose, as a log line shows it: escaped, and at most 64 characters of it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 64;
        match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(formatter, "{}...", self.0[..end].escape_debug()),
            None => self.0.escape_debug().fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tracing::level_filters::LevelFilter;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_repeated_line_is_logged_once_and_its_count_later() {
        let mut warning = RateLimitedLog::default();
        assert_eq!([warning.count(), warning.count(), warning.count()], [Some(1), None, None]);
        warning.logged = Instant::now().checked_sub(WINDOW);
        assert_eq!(warning.count(), Some(3));
    }

    fn logged(level: LevelFilter, of: impl FnOnce(&RequestLog)) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(level);
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            of(&RequestLog::new(Some("presence/contact-centre".into())))
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn mismatch() -> Problem {
        Problem::new(ProblemKind::SignatureMismatch, "the signature is wrong")
    }

    const TRACE: Trace<'static> =
        Trace { parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), state: None };

    #[test]
    fn an_accepted_event_is_one_line_at_debug_with_its_trace() {
        let of = |outcomes: &RequestLog| outcomes.accepted(Delivered::Published, "e-1", TRACE);
        let lines = logged(LevelFilter::DEBUG, of);
        assert_eq!(lines.len(), 1);
        for (field, value) in [
            ("level", "DEBUG"),
            ("route", "presence/contact-centre"),
            ("outcome", "processed"),
            ("event_id", "e-1"),
            ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ] {
            assert_eq!(lines[0][field], value);
        }
        assert!(logged(LevelFilter::INFO, of).is_empty());
    }

    #[test]
    fn a_flood_of_rejections_is_a_few_lines_and_a_summary() {
        let flood = |outcomes: &RequestLog| {
            for _ in 0..10_000 {
                outcomes.rejected(&mismatch(), Trace::default());
            }
            outcomes.rejected(&Problem::new(ProblemKind::Unrouted, "no route").about("e-1"), TRACE);
            outcomes.end_window();
            outcomes.end_window();
        };
        let lines = logged(LevelFilter::INFO, flood);
        assert_eq!(lines.len(), 5 + 1 + 1, "{lines:?}");
        assert!(lines[0].get("event_id").is_none() && lines[0].get("trace_id").is_none(), "{}", lines[0]);
        assert_eq!(lines[0]["detail"], "the signature is wrong");
        assert_eq!((&lines[5]["outcome"], &lines[5]["event_id"]), (&"unrouted".into(), &"e-1".into()));
        assert_eq!(
            (&lines[6]["outcome"], &lines[6]["rejected"]),
            (&"signature-mismatch".into(), &10_000.into())
        );
        assert_eq!(logged(LevelFilter::DEBUG, flood).len(), 10_000 + 1 + 1);
    }

    #[test]
    fn each_window_has_lines_of_its_own() {
        let lines = logged(LevelFilter::INFO, |outcomes| {
            outcomes.rejected(&mismatch(), Trace::default());
            outcomes.end_window();
            outcomes.rejected(&mismatch(), Trace::default());
        });
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_flood_of_invalid_events_is_one_line_at_warn() {
        let flood = |outcomes: &RequestLog| {
            let problem = Problem::new(ProblemKind::EventInvalid, "the event has no id");
            for _ in 0..1_000 {
                outcomes.dead_lettered(&problem, "bad", None, TRACE);
            }
        };
        let lines = logged(LevelFilter::INFO, flood);
        assert_eq!(lines.len(), 1, "{lines:?}");
        for (field, value) in [
            ("outcome", "invalid-dead-lettered"),
            ("reason", "event-invalid"),
            ("topic", "bad"),
            ("detail", "the event has no id"),
            ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ] {
            assert_eq!(lines[0][field], value);
        }
        assert_eq!(logged(LevelFilter::DEBUG, flood).len(), 1_000);
    }

    #[test]
    fn an_event_id_is_escaped_and_shortened() {
        assert_eq!(Escaped("e\u{202e}1\"").to_string(), r#"e\u{202e}1\""#);
        assert_eq!(Escaped(&"é".repeat(65)).to_string(), format!("{}...", "é".repeat(64)));
    }
}
