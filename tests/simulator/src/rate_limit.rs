//! Each client's budget of requests, counted as Genesys counts it: in a window of a minute that starts with
//! the client's first request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::problem::Problem;
use crate::token::ClientId;

const WINDOW: Duration = Duration::from_secs(60);

/// Clients whose window is over are dropped once there are this many clients.
const REMEMBERED_CLIENTS: usize = 1_000;

/// The requests of each client in its window.
pub(crate) struct RateLimit {
    calls_per_window: u32,
    windows: HashMap<String, Window>,
}

struct Window {
    opened: Instant,
    calls: u32,
}

impl RateLimit {
    /// A budget of that many requests a minute for each client; 0 is no limit.
    pub(crate) fn new(calls_per_window: u32) -> Self {
        Self { calls_per_window, windows: HashMap::new() }
    }

    /// Counts one request of the client, or refuses it with the time until the window is over.
    pub(crate) fn take(&mut self, client: &ClientId, now: Instant) -> Result<(), Problem> {
        if self.calls_per_window == 0 {
            return Ok(());
        }
        let is_open = |window: &Window| now.duration_since(window.opened) < WINDOW;
        if self.windows.len() >= REMEMBERED_CLIENTS {
            self.windows.retain(|_, window| is_open(window));
        }
        let window = self.windows.entry(client.0.clone()).or_insert(Window { opened: now, calls: 0 });
        if !is_open(window) {
            *window = Window { opened: now, calls: 0 };
        }
        if window.calls >= self.calls_per_window {
            let left = WINDOW.saturating_sub(now.duration_since(window.opened));
            let message = format!(
                "the client has made its {} calls within {} seconds",
                self.calls_per_window,
                WINDOW.as_secs(),
            );
            return Err(Problem::too_many_requests(message, left.as_secs_f64().ceil().max(1.0) as u64));
        }
        window.calls += 1;
        Ok(())
    }

    /// Gives every client its full budget.
    pub(crate) fn reset(&mut self) {
        self.windows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str) -> ClientId {
        ClientId(id.to_owned())
    }

    #[test]
    fn a_client_waits_for_its_window_once_its_budget_is_used_up() {
        let mut limit = RateLimit::new(2);
        let start = Instant::now();
        assert_eq!(limit.take(&client("a"), start), Ok(()));
        assert_eq!(limit.take(&client("a"), start + Duration::from_secs(10)), Ok(()));
        assert!(limit.take(&client("a"), start + Duration::from_millis(59_999)).is_err());
        assert_eq!(limit.take(&client("a"), start + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn one_clients_calls_are_not_anothers() {
        let mut limit = RateLimit::new(1);
        let now = Instant::now();
        assert_eq!(limit.take(&client("a"), now), Ok(()));
        assert_eq!(limit.take(&client("b"), now), Ok(()));
        assert!(limit.take(&client("a"), now).is_err());
    }

    #[test]
    fn zero_is_no_limit() {
        let mut limit = RateLimit::new(0);
        let now = Instant::now();
        assert!((0..1_000).all(|_| limit.take(&client("a"), now).is_ok()));
    }
}
