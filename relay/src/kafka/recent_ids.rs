//! The dedupe window: which deliveries were acknowledged recently. Its layout is compact, because most of the memory that
//! a relay holds is this.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use super::fingerprint::Fingerprint;

/// The most fingerprints that memory is allocated for at the start. Memory that was never written costs nothing, and a
/// table that never grows leaves no gaps; but a limit of billions must not allocate gigabytes at once.
const INITIAL_CAPACITY: usize = 1 << 20;

/// Fingerprints, bounded in number and age, oldest first.
///
/// Each is kept once, in a ring; the table that finds it holds its number, and its age is counted in whole seconds.
pub(super) struct RecentIds {
    most: usize,
    window: Duration,
    began: Instant,
    ring: VecDeque<Fingerprint>,
    /// How many of the ring were inserted in each second.
    seconds: VecDeque<Second>,
    /// The numbers of the fingerprints in the ring.
    numbers: HashTable<u32>,
    /// The number of the oldest; they wrap around.
    oldest: u32,
}

/// A second in which fingerprints were inserted.
struct Second {
    /// Which second since `began`.
    number: u32,
    /// How many of those inserted in it are still in the ring.
    left: u32,
}

impl RecentIds {
    /// At most `most`, each for `window` and up to a second more; none where either is zero.
    pub(super) fn new(most: usize, window: Duration) -> Self {
        // Numbers wrap around, so a ring never holds all of them.
        let most = if window.is_zero() { 0 } else { most.min(1 << 31) };
        Self {
            most,
            window,
            began: Instant::now(),
            ring: VecDeque::with_capacity(most.min(INITIAL_CAPACITY)),
            seconds: VecDeque::new(),
            numbers: HashTable::with_capacity(most.min(INITIAL_CAPACITY)),
            oldest: 0,
        }
    }

    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.numbers.find(fingerprint.hash(), |number| self.at(*number) == Some(fingerprint)).is_some()
    }

    /// Inserts one that it does not contain.
    pub(super) fn insert(&mut self, fingerprint: Fingerprint, now: Instant) {
        if self.most == 0 {
            return;
        }
        if self.ring.len() == self.most {
            self.remove_oldest();
        }
        let Ok(position) = u32::try_from(self.ring.len()) else { return };
        let number = self.oldest.wrapping_add(position);
        self.ring.push_back(fingerprint);
        self.count(self.second(now));
        let (ring, oldest) = (&self.ring, self.oldest);
        self.numbers.insert_unique(fingerprint.hash(), number, |number| {
            ring.get(number.wrapping_sub(oldest) as usize).map_or(0, |known| known.hash())
        });
    }

    /// Counts one more in this second, or in the newest one where another thread's clock is behind it.
    fn count(&mut self, second: u32) {
        match self.seconds.back_mut() {
            Some(newest) if newest.number >= second => newest.left += 1,
            _ => self.seconds.push_back(Second { number: second, left: 1 }),
        }
    }

    /// Removes what is older than the window.
    pub(super) fn expire(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        // A fingerprint may have been inserted at the very end of its second.
        while let Some(Second { number, .. }) = self.seconds.front()
            && since >= Duration::from_secs(u64::from(*number) + 1).saturating_add(self.window)
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(second) = self.seconds.front_mut() {
            second.left -= 1;
            if second.left == 0 {
                self.seconds.pop_front();
            }
        }
        let Some(fingerprint) = self.ring.pop_front() else { return };
        let oldest = self.oldest;
        if let Ok(entry) = self.numbers.find_entry(fingerprint.hash(), |number| *number == oldest) {
            entry.remove();
        }
        self.oldest = oldest.wrapping_add(1);
    }

    fn at(&self, number: u32) -> Option<Fingerprint> {
        self.ring.get(number.wrapping_sub(self.oldest) as usize).copied()
    }

    fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_core::relay_config::Limits;

    fn fingerprint(number: u64) -> Fingerprint {
        // Two of them have the same hash.
        Fingerprint(number, number ^ (number / 2))
    }

    #[test]
    fn the_oldest_are_evicted_also_when_numbers_wrap_around() {
        let mut recent = RecentIds::new(100, Duration::from_secs(60));
        recent.oldest = u32::MAX - 150;
        let now = Instant::now();
        for number in 0..1000 {
            assert!(!recent.contains(fingerprint(number)));
            recent.insert(fingerprint(number), now);
            let oldest = (number + 1).saturating_sub(100);
            assert!((oldest..=number).all(|known| recent.contains(fingerprint(known))));
            assert!(oldest == 0 || !recent.contains(fingerprint(oldest - 1)));
        }
        let came: u32 = recent.seconds.iter().map(|second| second.left).sum();
        assert_eq!((recent.numbers.len(), recent.ring.len(), came), (100, 100, 100));
    }

    #[test]
    fn memory_is_one_ring_of_the_limit_and_one_number_a_second() {
        let mut recent = RecentIds::new(1_000, Duration::from_secs(600));
        let began = Instant::now();
        for number in 0..3_000 {
            recent.insert(fingerprint(number), began + Duration::from_millis(number));
        }
        assert_eq!(recent.ring.capacity(), 1_000);
        assert!(recent.seconds.len() <= 3, "{}", recent.seconds.len());
    }

    #[test]
    fn what_is_too_old_is_forgotten_and_the_rest_is_found() {
        let mut recent = RecentIds::new(100, Duration::from_secs(60));
        let began = Instant::now();
        for second in 0..90 {
            let now = began + Duration::from_secs(second);
            recent.expire(now);
            recent.insert(fingerprint(second), now);
        }
        // The 29th is 60 seconds old.
        assert!((0..29).all(|old| !recent.contains(fingerprint(old))));
        assert!((29..90).all(|young| recent.contains(fingerprint(young))));
    }

    #[test]
    fn each_is_kept_for_the_window_and_up_to_a_second_more() {
        let window = Duration::from_millis(2_500);
        for came in [0, 1, 500, 999].map(Duration::from_millis) {
            let mut recent = RecentIds::new(100, window);
            let came = recent.began + came;
            recent.insert(fingerprint(1), came);
            recent.expire(came + window);
            assert!(recent.contains(fingerprint(1)), "forgotten too early: {came:?}");
            recent.expire(came + window + Duration::from_secs(1));
            assert!(!recent.contains(fingerprint(1)), "forgotten too late: {came:?}");
        }
    }

    /// Inserts `rate` a second until `end`, and returns how old the oldest is that is still known then, in seconds.
    fn oldest_known(rate: u64, end: u64, limits: &Limits) -> u64 {
        let mut recent =
            RecentIds::new(limits.dedupe_max_ids, Duration::from_millis(limits.dedupe_window_ms));
        let began = recent.began;
        for second in 0..end {
            let now = began + Duration::from_secs(second);
            recent.expire(now);
            for number in second * rate..(second + 1) * rate {
                recent.insert(fingerprint(number), now);
            }
        }
        recent.expire(began + Duration::from_secs(end));
        let is_known = |second: &u64| recent.contains(fingerprint(second * rate));
        let oldest = (0..end).find(is_known).expect("the newest is known");
        assert!((oldest..end).all(|second| is_known(&second)));
        end - oldest
    }

    #[test]
    fn how_long_an_id_is_known_follows_from_the_rate_and_the_limit() {
        let usual = Limits::default();
        assert_eq!(oldest_known(2_000, 60, &usual), 50);
        assert_eq!(oldest_known(166, 610, &usual), 600);
        // What docs/behaviour.md names for 2,000 deliveries a second.
        let more = Limits { dedupe_max_ids: 1_200_000, ..Limits::default() };
        assert_eq!(oldest_known(2_000, 610, &more), 600);
    }

    #[test]
    fn nothing_is_kept_without_a_window_or_a_limit() {
        for (most, window) in [(0, Duration::from_secs(60)), (100, Duration::ZERO)] {
            let mut recent = RecentIds::new(most, window);
            recent.insert(fingerprint(1), Instant::now());
            assert!(!recent.contains(fingerprint(1)));
        }
    }
}
