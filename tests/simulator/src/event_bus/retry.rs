//! Amazon EventBridge's retries of an event that its target did not accept.
//!
//! From AWS's user guide: a target is tried again for up to 24 hours and 185 times, with exponential backoff and jitter. An API
//! destination is tried again after 401, 407, 409, 429, 5xx and no answer within 5 seconds, and after no other status. Of its
//! `Retry-After` and the backoff, the later counts; a negative `Retry-After` ends the retries. How long the first wait
//! is, AWS does not say.

use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

use super::rule::TargetRetryPolicy;
use crate::delivery::Outcome;

/// The longest backoff.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What a target's answer means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Accepted,
    /// Not tried again.
    Refused,
    TryAgain {
        retry_after: Option<RetryAfter>,
    },
}

impl Verdict {
    /// What an API destination's status means.
    pub(super) fn of_status(status: u16, retry_after: Option<RetryAfter>) -> Self {
        match status {
            200..=299 => Self::Accepted,
            401 | 407 | 409 | 429 | 500..=599 => Self::TryAgain { retry_after },
            _ => Self::Refused,
        }
    }
}

/// When a target wants to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryAfter {
    In(Duration),
    Never,
}

impl RetryAfter {
    /// Reads seconds or a date (RFC 9110, section 10.2.3). A date of the past is now. What cannot be read does not
    /// count.
    pub(super) fn read(value: &HeaderValue, now: Timestamp) -> Option<Self> {
        let text = value.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse::<i64>() {
            return Some(u64::try_from(seconds).map_or(Self::Never, |s| Self::In(Duration::from_secs(s))));
        }
        let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Some(Self::In(Duration::try_from(date.duration_since(now)).unwrap_or_default()))
    }
}

/// What becomes of an event after a try.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Done(Outcome),
    TryAgainIn(Duration),
}

/// Decides by the number of tries so far, the event's age, the wait before the first retry and a random number from 0 to
/// 1, which takes up to half of the backoff away.
pub(super) fn next(
    verdict: Verdict,
    policy: TargetRetryPolicy,
    tries: usize,
    age: Duration,
    first_wait: Duration,
    random: f64,
) -> Next {
    let retry_after = match verdict {
        Verdict::Accepted => return Next::Done(Outcome::Delivered),
        Verdict::Refused | Verdict::TryAgain { retry_after: Some(RetryAfter::Never) } => {
            return Next::Done(Outcome::Dropped);
        }
        Verdict::TryAgain { retry_after: Some(RetryAfter::In(wait)) } => wait,
        Verdict::TryAgain { retry_after: None } => Duration::ZERO,
    };
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let backoff = first_wait.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let wait = backoff.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0).max(retry_after);
    let is_too_old = age.saturating_add(wait) > Duration::from_secs(policy.maximum_event_age_in_seconds);
    if tries > policy.maximum_retry_attempts as usize || is_too_old {
        return Next::Done(Outcome::Exhausted);
    }
    Next::TryAgainIn(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const AGAIN: Verdict = Verdict::TryAgain { retry_after: None };

    fn after(verdict: Verdict, tries: usize, age: Duration) -> Next {
        next(verdict, TargetRetryPolicy::default(), tries, age, SECOND, 0.0)
    }

    #[test]
    fn aws_defines_what_is_tried_again() {
        for status in [200, 202, 204] {
            assert_eq!(Verdict::of_status(status, None), Verdict::Accepted, "{status}");
        }
        for status in [401, 407, 409, 429, 500, 502, 503, 504, 599] {
            assert_eq!(Verdict::of_status(status, None), AGAIN, "{status}");
        }
        for status in [100, 301, 302, 307, 400, 403, 404, 405, 408, 413, 415, 422] {
            assert_eq!(Verdict::of_status(status, None), Verdict::Refused, "{status}");
        }
    }

    #[test]
    fn the_wait_doubles_up_to_ten_minutes() {
        for (tries, seconds) in [(1, 1), (2, 2), (3, 4), (10, 512), (11, 600), (185, 600)] {
            let wait = Next::TryAgainIn(Duration::from_secs(seconds));
            assert_eq!(after(AGAIN, tries, Duration::ZERO), wait, "{tries}");
        }
        let jittered = next(AGAIN, TargetRetryPolicy::default(), 1, Duration::ZERO, SECOND, 1.0);
        assert_eq!(jittered, Next::TryAgainIn(SECOND / 2));
    }

    #[test]
    fn after_185_retries_or_a_day_the_event_is_given_up() {
        assert_eq!(after(AGAIN, 186, Duration::ZERO), Next::Done(Outcome::Exhausted));
        let day = Duration::from_secs(86_400);
        assert_eq!(after(AGAIN, 1, day), Next::Done(Outcome::Exhausted));
        assert_eq!(after(AGAIN, 1, day - SECOND), Next::TryAgainIn(SECOND));
    }

    #[test]
    fn the_later_of_retry_after_and_backoff_counts() {
        let asked =
            |seconds| Verdict::TryAgain { retry_after: Some(RetryAfter::In(Duration::from_secs(seconds))) };
        assert_eq!(after(asked(30), 1, Duration::ZERO), Next::TryAgainIn(SECOND * 30));
        assert_eq!(after(asked(3), 4, Duration::ZERO), Next::TryAgainIn(SECOND * 8));
    }

    #[test]
    fn a_negative_retry_after_ends_the_retries() {
        let never = RetryAfter::read(&HeaderValue::from_static("-1"), Timestamp::now());
        assert_eq!(never, Some(RetryAfter::Never));
        let verdict = Verdict::TryAgain { retry_after: never };
        assert_eq!(after(verdict, 1, Duration::ZERO), Next::Done(Outcome::Dropped));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let read = |text| RetryAfter::read(&HeaderValue::from_static(text), now);
        assert_eq!(read("7"), Some(RetryAfter::In(SECOND * 7)));
        assert_eq!(read("Sat, 31 Jan 2026 12:00:30 GMT"), Some(RetryAfter::In(SECOND * 30)));
        assert_eq!(read("Sat, 31 Jan 2026 11:00:00 GMT"), Some(RetryAfter::In(Duration::ZERO)));
        assert_eq!(read("soon"), None);
    }
}
