//! One log line an outcome of a request, and no way for a sender to fill a disk with them.
//!
//! An event that was taken is a line at debug. A refusal is a line at warn, but of each kind only the first
//! [`LINES`] in a [`WINDOW`]: the rest is summed in one line when it is over, and said one by one only at debug.
//! No line holds a secret or a part of a body but an event's id, and that only when the signature was right.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::metrics::Reason;
use crate::problem::{Kind, Problem};
use crate::publish::Trace;

/// How many refusals of one kind are said one by one.
const LINES: u64 = 5;

/// In what time.
const WINDOW: Duration = Duration::from_secs(60);

/// Lets something be said now and then that would otherwise fill a disk, and counts what is left unsaid.
#[derive(Debug, Default)]
pub(crate) struct NowAndThen {
    said: Option<Instant>,
    unsaid: u64,
}

impl NowAndThen {
    /// How often it came since it was said last, where it may be said again: once in a minute.
    pub(crate) fn say(&mut self) -> Option<u64> {
        self.unsaid += 1;
        if self.said.is_some_and(|said| said.elapsed() < WINDOW) {
            return None;
        }
        self.said = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Says what became of requests.
pub struct Outcomes {
    /// The PresenceRoute that the relay serves, where it was told.
    route: Option<String>,
    /// How many of each kind were refused in this window.
    refused: [AtomicU64; Kind::ALL.len()],
}

impl Outcomes {
    /// Outcomes of a relay that serves this route.
    pub fn new(route: Option<String>) -> Self {
        Self { route, refused: Default::default() }
    }

    /// An event was taken.
    pub fn taken(&self, reason: Reason, event_id: &str, trace: Trace<'_>) {
        tracing::debug!(
            route = self.route,
            outcome = reason.name(),
            status = reason.status().as_u16(),
            event_id = %Shown(event_id),
            trace_id = trace.id(),
            "answered"
        );
    }

    /// A request was refused.
    pub fn refused(&self, problem: &Problem, trace: Trace<'_>) {
        let Problem { kind, detail, event_id } = problem;
        let event_id = event_id.as_deref().map(Shown).map(tracing::field::display);
        let (route, status) = (self.route.as_deref(), kind.status().as_u16());
        let (outcome, trace_id) = (kind.name(), trace.id());
        // A line's level is part of the program, hence two of them.
        if self.refused[*kind as usize].fetch_add(1, Ordering::Relaxed) < LINES {
            tracing::warn!(route, outcome, status, event_id, trace_id, %detail, "refused");
        } else {
            tracing::debug!(route, outcome, status, event_id, trace_id, %detail, "refused");
        }
    }

    /// Says at the end of each window how many refusals there were beyond those that were said, until `stop`.
    pub async fn sum_up(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(WINDOW)).await.is_some() {
            self.end_window();
        }
        self.end_window();
    }

    fn end_window(&self) {
        for (kind, count) in Kind::ALL.iter().zip(&self.refused) {
            let refused = count.swap(0, Ordering::Relaxed);
            if refused > LINES {
                tracing::warn!(
                    route = self.route,
                    outcome = kind.name(),
                    status = kind.status().as_u16(),
                    refused,
                    within_seconds = WINDOW.as_secs(),
                    "refused, in all"
                );
            }
        }
    }
}

/// Text that a sender chose, fit for a line: escaped, and at most 64 characters of it.
struct Shown<'a>(&'a str);

impl Display for Shown<'_> {
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
    use std::sync::Mutex;
    use tracing::level_filters::LevelFilter;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_comes_again_and_again_is_said_once_with_its_number_later() {
        let mut warning = NowAndThen::default();
        assert_eq!([warning.say(), warning.say(), warning.say()], [Some(1), None, None]);
        warning.said = Instant::now().checked_sub(WINDOW);
        assert_eq!(warning.say(), Some(3));
    }

    fn logged(level: LevelFilter, of: impl FnOnce(&Outcomes)) -> Vec<serde_json::Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(level);
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || of(&Outcomes::new(Some("presence/contact-centre".into()))));
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn mismatch() -> Problem {
        Problem::new(Kind::SignatureMismatch, "the signature is wrong")
    }

    const TRACE: Trace<'static> =
        Trace { parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), state: None };

    #[test]
    fn an_event_that_was_taken_is_one_line_at_debug_with_route_event_and_trace() {
        let of = |outcomes: &Outcomes| outcomes.taken(Reason::Processed, "e-1", TRACE);
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
    fn a_flood_of_refusals_is_a_few_lines_and_a_sum_at_the_end_of_the_window() {
        let flood = |outcomes: &Outcomes| {
            for _ in 0..10_000 {
                outcomes.refused(&mismatch(), Trace::default());
            }
            outcomes.refused(&Problem::new(Kind::Unrouted, "no route").about("e-1"), TRACE);
            outcomes.end_window();
            outcomes.end_window();
        };
        let lines = logged(LevelFilter::INFO, flood);
        assert_eq!(lines.len(), 5 + 1 + 1, "{lines:?}");
        assert!(lines[0].get("event_id").is_none() && lines[0].get("trace_id").is_none(), "{}", lines[0]);
        assert_eq!(lines[0]["detail"], "the signature is wrong");
        assert_eq!((&lines[5]["outcome"], &lines[5]["event_id"]), (&"unrouted".into(), &"e-1".into()));
        assert_eq!(
            (&lines[6]["outcome"], &lines[6]["refused"]),
            (&"signature-mismatch".into(), &10_000.into())
        );
        assert_eq!(logged(LevelFilter::DEBUG, flood).len(), 10_000 + 1 + 1);
    }

    #[test]
    fn each_window_has_lines_of_its_own() {
        let lines = logged(LevelFilter::INFO, |outcomes| {
            outcomes.refused(&mismatch(), Trace::default());
            outcomes.end_window();
            outcomes.refused(&mismatch(), Trace::default());
        });
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn an_events_id_is_shown_escaped_and_shortened() {
        assert_eq!(Shown("e\u{202e}1\"").to_string(), r#"e\u{202e}1\""#);
        assert_eq!(Shown(&"é".repeat(65)).to_string(), format!("{}...", "é".repeat(64)));
    }
}
