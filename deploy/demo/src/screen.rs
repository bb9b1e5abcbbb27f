//! What the person sees: a few lines that stay, and below them a picture that is drawn over itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use genesys_simulator::DeliverySummary;
use presenceroute_core::relay_status::RelayStatus;

/// How often a picture is printed where it cannot be drawn over the last one.
const PLAIN_EVERY: Duration = Duration::from_secs(2);

/// Standard output.
pub(crate) struct Screen {
    terminal: bool,
    /// Lines of the last picture.
    height: Cell<usize>,
    drawn: Cell<Option<Instant>>,
}

impl Screen {
    /// Looks whether there is a terminal.
    pub(crate) fn new() -> Self {
        Self { terminal: stdout().is_terminal(), height: Cell::new(0), drawn: Cell::new(None) }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        self.write(&format!("{}{text}\n", self.erase()));
        self.height.set(0);
        self.drawn.set(None);
    }

    /// The picture.
    pub(crate) fn draw(
        &self,
        summary: &DeliverySummary,
        topics: &BTreeMap<String, u64>,
        relay: &RelayStatus,
    ) {
        if !self.terminal && self.drawn.get().is_some_and(|drawn| drawn.elapsed() < PLAIN_EVERY) {
            return;
        }
        let picture = picture(summary, topics, relay);
        self.write(&format!("{}{picture}", self.erase()));
        self.height.set(picture.lines().count());
        self.drawn.set(Some(Instant::now()));
    }

    /// Takes the last picture away.
    fn erase(&self) -> String {
        match (self.terminal, self.height.get()) {
            (true, height) if height > 0 => format!("\x1b[{height}A\x1b[J"),
            _ => String::new(),
        }
    }

    fn write(&self, text: &str) {
        // Nobody looks any more when this fails.
        let mut out = stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn picture(summary: &DeliverySummary, topics: &BTreeMap<String, u64>, relay: &RelayStatus) -> String {
    let mut lines = vec![String::new(), format!("routes at revision {}", relay.routing.revision)];
    if let Some(error) = &relay.routing.error {
        lines.push(format!("  a newer table is not served: {error}"));
    }
    let width = topics.keys().map(String::len).max().unwrap_or(0);
    lines.extend(topics.iter().map(|(topic, count)| format!("  {topic:<width$}  {count:>7} records")));
    if let Some(queue) = &relay.queue {
        lines.push(format!(
            "queue      {} received, {} deleted, {} returned",
            queue.received, queue.deleted, queue.returned
        ));
    }
    let statuses: Vec<_> =
        summary.statuses.iter().map(|(status, count)| format!("{status} x {count}")).collect();
    lines.push(format!("answers    {}", statuses.join(", ")));
    if let Some(latency) = &summary.latency_ms {
        lines.push(format!(
            "latency    p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            latency.p50, latency.p99, latency.max
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}
