//! Latencies in a bounded space: buckets that widen with the value, so that a quantile is right to 1 part
//! in 64 however many values there were.

use std::time::Duration;

/// Values below twice this many microseconds have a bucket each; above, each power of two has this many.
const PER_POWER: u64 = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Latencies {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Latencies {
    pub(super) fn add(&mut self, latency: Duration) {
        let microseconds = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(microseconds);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.longest = self.longest.max(latency);
    }

    /// The value that a share of `quantile` (0 to 1) of all values does not exceed; `None` without values.
    pub(super) fn quantile(&self, quantile: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((self.count as f64 * quantile).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(highest(bucket)).min(self.longest))
    }

    pub(super) fn longest(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.longest)
    }
}

fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - (value / PER_POWER).leading_zeros()).saturating_sub(1);
    (u64::from(shift) * PER_POWER + (value >> shift)) as usize
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / PER_POWER).saturating_sub(1);
    let first = (bucket - shift * PER_POWER) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_highest_value_and_not_the_next() {
        for value in (0..1_000).chain([65_535, 65_536, 1_000_000, 123_456_789]) {
            let bucket_of_value = bucket(value);
            assert!(highest(bucket_of_value) >= value);
            assert_eq!(bucket(highest(bucket_of_value)), bucket_of_value);
            assert_eq!(bucket(highest(bucket_of_value) + 1), bucket_of_value + 1);
        }
    }

    #[test]
    fn quantiles_are_right_to_a_64th() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|value| latencies.add(Duration::from_micros(value)));
        for (quantile, exact) in [(0.5, 5_000.0), (0.99, 9_900.0)] {
            let found = latencies.quantile(quantile).unwrap().as_micros() as f64;
            assert!((found - exact).abs() <= exact / 64.0, "{found} for {exact}");
        }
        assert_eq!(latencies.quantile(1.0), Some(Duration::from_micros(10_000)));
        assert_eq!(latencies.longest(), Some(Duration::from_micros(10_000)));
    }

    #[test]
    fn without_values_there_is_no_quantile() {
        assert_eq!(Latencies::default().quantile(0.5), None);
    }
}
