//! Quotas: which brokers delay the relay because it exceeds one, and until when.
//!
//! A broker answers such a client with the time by which it delays it, and reads nothing more of that connection until
//! then (KIP-219). So requests time out, also those that only ask for topics, while the broker is well: that is told apart
//! here from a broker that does not answer.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The longest delay that is believed: the library opens another connection long before, and the broker says anew how it
/// is. Without a bound, a broker that dies would count as one that throttles for as long as it said.
const LONGEST: Duration = Duration::from_secs(60);

/// How many brokers are remembered.
const MAX_BROKERS: usize = 256;

/// How long after the end of a delay the next one is no news for the log.
const QUIET: Duration = Duration::from_secs(60);

/// The brokers that delay a producer.
#[derive(Debug, Default)]
pub(super) struct Throttles(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_broker: BTreeMap<i32, Throttle>,
    /// When the log says again that a broker throttles.
    quiet_until: Option<Instant>,
}

/// A broker's delay of the relay's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Throttle {
    /// The broker's HOST:PORT.
    broker: String,
    delay: Duration,
    /// When it ends, as far as it is believed.
    pub(super) until: Instant,
}

impl Throttles {
    /// Notes what a broker says at `now`: the delay, or zero when it delays the producer no longer.
    pub(super) fn note(&self, id: i32, broker: &str, delay: Duration, now: Instant) {
        let mut state = self.0.lock();
        if delay.is_zero() {
            state.by_broker.remove(&id);
            return;
        }
        if !state.by_broker.contains_key(&id) && state.by_broker.len() >= MAX_BROKERS {
            state.by_broker.retain(|_, throttle| throttle.until >= now);
            if state.by_broker.len() >= MAX_BROKERS {
                return;
            }
        }
        let throttle = Throttle { broker: broker.to_owned(), delay, until: now + delay.min(LONGEST) };
        if state.quiet_until.is_none_or(|until| until < now) {
            tracing::warn!(cause = %throttle, "Kafka throttles the relay");
        }
        state.quiet_until = state.quiet_until.max(Some(throttle.until + QUIET));
        state.by_broker.insert(id, throttle);
    }

    /// The delay that ends last, of those in force at `since` or later.
    pub(super) fn since(&self, since: Instant) -> Option<Throttle> {
        let state = self.0.lock();
        let in_force = state.by_broker.values().filter(|throttle| throttle.until >= since);
        in_force.max_by_key(|throttle| throttle.until).cloned()
    }
}

impl fmt::Display for Throttle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broker, delay, .. } = self;
        write!(
            formatter,
            "broker {broker} delays the relay by {:.1} s, because its user or client.id exceeds a quota; raise \
             producer_byte_rate or request_percentage, or send less",
            delay.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_delay_is_in_force_until_it_ends_or_the_broker_says_so() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        let until = |since| throttles.since(since).map(|throttle| throttle.until - now);
        throttles.note(1, "k:1", seconds(2), now);
        throttles.note(2, "k:2", seconds(5), now);
        assert_eq!(until(now), Some(seconds(5)));
        assert_eq!((until(now + seconds(5)), until(now + seconds(6))), (Some(seconds(5)), None));
        throttles.note(2, "k:2", Duration::ZERO, now);
        assert_eq!(until(now), Some(seconds(2)));
    }

    #[test]
    fn a_delay_and_their_number_are_bounded() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        throttles.note(1, "k:1", seconds(1_000_000), now);
        assert_eq!(throttles.since(now).map(|throttle| throttle.until), Some(now + LONGEST));
        for id in 0..1_000 {
            throttles.note(id, "k", seconds(2), now);
        }
        assert_eq!(throttles.0.lock().by_broker.len(), MAX_BROKERS);
        // What is over makes room.
        throttles.note(1_000, "k", seconds(9), now + seconds(3));
        assert_eq!(
            throttles.since(now + seconds(10)).map(|throttle| throttle.until),
            Some(now + seconds(12))
        );
    }

    #[test]
    fn a_throttle_names_broker_delay_quota_and_remedy() {
        let throttle = Throttle {
            broker: "kafka:9092".into(),
            delay: Duration::from_millis(2_345),
            until: Instant::now(),
        };
        assert_eq!(
            throttle.to_string(),
            "broker kafka:9092 delays the relay by 2.3 s, because its user or client.id exceeds a quota; raise \
             producer_byte_rate or request_percentage, or send less"
        );
    }
}
