//! How many events a run makes, and how fast.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::plan::PlanError;

const DEFAULT_CONCURRENCY: usize = 32;
const MOST_CONCURRENT: usize = 1_024;
const FASTEST_PER_SECOND: f64 = 100_000.0;
const DEFAULT_LONGEST: Duration = Duration::from_secs(3_600);

/// A valid pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// How many events; `None` is no end.
    pub(crate) count: Option<u64>,
    pub(crate) rate_per_second: Option<f64>,
    /// How many deliveries may be on the wire at once.
    pub(crate) concurrency: usize,
    /// No event is made later.
    pub(crate) longest: Option<Duration>,
}

impl Pace {
    /// Checks what a plan asks for. Without `count` and `max_seconds`, a run ends after an hour.
    pub(crate) fn check(
        count: Option<u64>,
        rate_per_second: Option<f64>,
        concurrency: Option<usize>,
        max_seconds: Option<u64>,
    ) -> Result<Self, PlanError> {
        let invalid = |message: &str| Err(PlanError::Invalid(message.to_owned()));
        if count == Some(0) {
            return invalid("\"count\" must be at least 1; leave it out for an endless run");
        }
        if rate_per_second.is_some_and(|rate| !(rate > 0.0 && rate <= FASTEST_PER_SECOND)) {
            return invalid("\"ratePerSecond\" must be above 0 and at most 100000");
        }
        let concurrency = concurrency.unwrap_or(DEFAULT_CONCURRENCY);
        if !(1..=MOST_CONCURRENT).contains(&concurrency) {
            return invalid("\"concurrency\" must be 1 to 1024");
        }
        let longest = match (max_seconds, count) {
            (Some(seconds), _) => Some(Duration::from_secs(seconds)),
            (None, None) => Some(DEFAULT_LONGEST),
            (None, Some(_)) => None,
        };
        Ok(Self { count, rate_per_second, concurrency, longest })
    }

    /// Waits until the event of that index may be made.
    pub(crate) async fn wait(&self, start: Instant, index: u64) {
        if let Some(rate) = self.rate_per_second {
            sleep_until(start + Duration::from_secs_f64(index as f64 / rate)).await;
        }
    }

    /// Ends when no event may be made any more.
    pub(crate) async fn over(&self) {
        match self.longest {
            Some(longest) => sleep(longest).await,
            None => pending().await,
        }
    }
}
