//! When events are due: at equal distances, at random, or in bursts.
//!
//! Presence comes in bursts (a shift begins), and a server that is only measured with equal distances is never asked
//! what two events at once cost.

use std::time::Duration;

use clap::ValueEnum;

/// Events of a burst, which are due within [`BURST_LENGTH`].
const BURST: usize = 8;
const BURST_LENGTH: Duration = Duration::from_millis(1);

/// Every run has the same due times, so that both relays of a pair get the same load.
const SEED: u64 = 0x5eed;

/// The distribution of due times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrivals {
    /// At equal distances.
    Even,
    /// Independent of each other (a Poisson process).
    Poisson,
    /// Bursts of eight at equal distances, each within a millisecond.
    Bursts,
}

/// The time at which each of `count` events is due, from the beginning, in order.
pub(crate) fn schedule(arrivals: Arrivals, rate: f64, count: usize) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(SEED);
    match arrivals {
        Arrivals::Even => (0..count).map(|number| Duration::from_secs_f64(number as f64 / rate)).collect(),
        Arrivals::Poisson => {
            let mut due = 0.0;
            (0..count)
                .map(|_| {
                    due -= (1.0 - random.f64()).ln() / rate;
                    Duration::from_secs_f64(due)
                })
                .collect()
        }
        Arrivals::Bursts => {
            let mut times = Vec::with_capacity(count + BURST);
            while times.len() < count {
                let begin = Duration::from_secs_f64(times.len() as f64 / rate);
                let mut burst: Vec<_> =
                    (0..BURST).map(|_| begin + BURST_LENGTH.mul_f64(random.f64())).collect();
                burst.sort_unstable();
                times.append(&mut burst);
            }
            // Above a burst a millisecond, bursts overlap.
            times.sort_unstable();
            times.truncate(count);
            times
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_keeps_the_rate_and_the_order() {
        for arrivals in [Arrivals::Even, Arrivals::Poisson, Arrivals::Bursts] {
            let times = schedule(arrivals, 2_000.0, 20_000);
            assert_eq!(times.len(), 20_000);
            assert!(times.is_sorted(), "{arrivals:?}");
            let seconds = times[19_999].as_secs_f64();
            assert!((9.5..10.5).contains(&seconds), "{arrivals:?}: {seconds} s for 20,000 events at 2,000/s");
        }
    }

    #[test]
    fn a_burst_is_due_within_a_millisecond() {
        let times = schedule(Arrivals::Bursts, 2_000.0, 800);
        for (number, burst) in times.chunks(8).enumerate() {
            let begin = Duration::from_millis(4 * number as u64);
            assert!(burst[0] >= begin && burst[7] < begin + Duration::from_millis(1), "{burst:?}");
        }
    }
}
