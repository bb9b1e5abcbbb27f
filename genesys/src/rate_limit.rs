//! How many requests an OAuth client may send: so many a minute for all routes together, and none while Genesys Cloud
//! asks for silence. First come, first served.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// A second longer than Genesys Cloud's minute: requests take differently long to arrive, and those at the end of one
/// minute must not arrive within the one before.
const WINDOW: Duration = Duration::from_secs(61);

/// The requests of one OAuth client.
pub(crate) struct Budget {
    calls_per_window: u32,
    longest_wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When each of the last requests was or will be sent, oldest first; at most a window's requests.
    calls: VecDeque<Instant>,
    held_back_until: Option<Instant>,
    /// The latest time that a refused request was told to come back at; each gets its own.
    promised_until: Option<Instant>,
}

/// Why a request cannot be sent now, and when to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) retry_after: Duration,
    /// Because the server asked for it; otherwise because the budget is used up.
    pub(crate) by_server: bool,
}

impl Budget {
    /// So many requests a minute, at least one. A request waits up to `longest_wait` for its turn; one whose turn is
    /// later is refused.
    pub(crate) fn new(calls_per_minute: u32, longest_wait: Duration) -> Self {
        Self { calls_per_window: calls_per_minute.max(1), longest_wait, state: Mutex::default() }
    }

    pub(crate) fn calls_per_minute(&self) -> u32 {
        self.calls_per_window
    }

    /// Returns when a request may be sent, which then counts as sent.
    pub(crate) async fn take(&self) -> Result<(), Refused> {
        let at = self.reserve(Instant::now())?;
        sleep_until(at).await;
        // The response to another request may have held this one back while it waited for its turn.
        let state = self.state.lock();
        match state.held_back_until.map(|until| until.saturating_duration_since(at)) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(retry_after) => Err(Refused { retry_after, by_server: true }),
        }
    }

    /// No further request for so long.
    pub(crate) fn hold_back(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        state.held_back_until = state.held_back_until.max(Some(until));
    }

    /// Counts a request that another budget has let through.
    pub(crate) fn charge(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.calls.len() >= self.calls_per_window as usize {
            state.calls.pop_front();
        }
        let at = state.calls.back().map_or(now, |last| now.max(*last));
        state.calls.push_back(at);
    }

    /// When the request may be sent, at most `longest_wait` from now.
    fn reserve(&self, now: Instant) -> Result<Instant, Refused> {
        let mut state = self.state.lock();
        let held_back_until = state.held_back_until.filter(|until| *until > now);
        // Once the window is full, each request waits for the oldest to leave it; never before one reserved earlier.
        let is_full = state.calls.len() >= self.calls_per_window as usize;
        let free_at = if is_full { state.calls.front().map(|oldest| *oldest + WINDOW) } else { None };
        let in_turn = state.calls.back().copied();
        let at = [Some(now), held_back_until, free_at, in_turn].into_iter().flatten().max().unwrap_or(now);
        if at - now <= self.longest_wait {
            if is_full {
                state.calls.pop_front();
            }
            state.calls.push_back(at);
            return Ok(at);
        }
        // Refused requests come back one by one, in the order in which they came, not all at once; those beyond what a
        // window has room for begin anew, so that no wait grows without end.
        let apart = WINDOW / self.calls_per_window;
        let next = state.promised_until.map_or(at, |promised| at.max(promised + apart));
        let back_at = if next > at + WINDOW { at } else { next };
        state.promised_until = Some(back_at);
        Err(Refused { retry_after: back_at - now, by_server: held_back_until == Some(at) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_there_at_once_and_then_used_up() {
        let budget = Budget::new(300, seconds(2));
        let start = Instant::now();
        for _ in 0..300 {
            budget.take().await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        let refused = budget.take().await.unwrap_err();
        assert_eq!(refused, Refused { retry_after: WINDOW, by_server: false });
    }

    #[tokio::test(start_paused = true)]
    async fn no_minute_holds_more_calls_than_the_budget() {
        let budget = Budget::new(10, seconds(2));
        let mut made: Vec<Instant> = Vec::new();
        let mut step = 0;
        while made.len() < 200 {
            match budget.take().await {
                Ok(()) => made.push(Instant::now()),
                Err(refused) => tokio::time::sleep(refused.retry_after).await,
            }
            step += 1;
            tokio::time::sleep(Duration::from_millis(step % 7 * 300)).await;
        }
        for window in made.windows(11) {
            assert!(window[10] - window[0] > seconds(60));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_wait_is_waited() {
        let budget = Budget::new(1, seconds(2));
        let start = Instant::now();
        budget.take().await.unwrap();
        tokio::time::sleep(WINDOW - seconds(2)).await;
        budget.take().await.unwrap();
        assert_eq!(start.elapsed(), WINDOW);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_are_served_in_their_order() {
        let budget = std::sync::Arc::new(Budget::new(5, WINDOW * 3));
        let order = std::sync::Arc::new(Mutex::new(Vec::new()));
        let calls = (0..15).map(|number| {
            let (budget, order) = (std::sync::Arc::clone(&budget), std::sync::Arc::clone(&order));
            async move {
                budget.take().await.unwrap();
                order.lock().push(number);
            }
        });
        futures::future::join_all(calls).await;
        assert_eq!(*order.lock(), (0..15).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_sent_away_come_back_one_after_the_other() {
        let budget = Budget::new(60, Duration::ZERO);
        for _ in 0..60 {
            budget.take().await.unwrap();
        }
        let mut waits = Vec::new();
        for _ in 0..3 {
            waits.push(budget.take().await.unwrap_err().retry_after);
        }
        let apart = WINDOW / 60;
        assert_eq!(waits, [WINDOW, WINDOW + apart, WINDOW + 2 * apart]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_is_longer_than_two_windows() {
        let budget = Budget::new(60, Duration::ZERO);
        for _ in 0..60 {
            budget.take().await.unwrap();
        }
        for _ in 0..10_000 {
            assert!(budget.take().await.unwrap_err().retry_after <= WINDOW * 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_another_budget_let_through_counts() {
        let budget = Budget::new(2, Duration::ZERO);
        budget.charge();
        budget.take().await.unwrap();
        budget.take().await.unwrap_err();
        // One more than there is room for holds back the next ones for its window.
        budget.charge();
        tokio::time::sleep(WINDOW).await;
        budget.take().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_is_sent_while_the_server_wants_silence() {
        let budget = Budget::new(300, seconds(2));
        budget.hold_back(seconds(30));
        budget.hold_back(seconds(10));
        let refused = budget.take().await.unwrap_err();
        assert_eq!(refused, Refused { retry_after: seconds(30), by_server: true });
        tokio::time::sleep(seconds(30)).await;
        budget.take().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_holds_back_requests_that_wait_for_their_turn() {
        let budget = Budget::new(1, WINDOW);
        budget.take().await.unwrap();
        let late_wish = async {
            tokio::time::sleep(seconds(1)).await;
            budget.hold_back(seconds(90));
        };
        let (taken, ()) = tokio::join!(budget.take(), late_wish);
        assert_eq!(taken, Err(Refused { retry_after: seconds(91) - WINDOW, by_server: true }));
    }
}
