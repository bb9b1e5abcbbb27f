//! What was acknowledged lately, in little memory: most of what a relay holds is this.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use super::ledger::Fingerprint;

/// For how many fingerprints there is room from the beginning, at most. Memory that is not written to yet costs nothing,
/// and what never grows leaves no gaps behind; but a bound of billions must not ask for gigabytes at once.
const ROOM: usize = 1 << 20;

/// Fingerprints, bounded in number and age, oldest first.
///
/// Each is kept once, in a ring; the table that finds it holds its number, and its age is counted in whole seconds.
pub(super) struct Remembered {
    most: usize,
    longest: Duration,
    began: Instant,
    ring: VecDeque<Fingerprint>,
    /// When those of the ring came.
    came: VecDeque<Second>,
    /// The numbers of what is in the ring.
    places: HashTable<u32>,
    /// The number of the oldest; they wrap around.
    oldest: u32,
}

/// A second in which some of the ring came.
struct Second {
    /// Which, after the beginning.
    number: u32,
    /// How many of those that came then are still in the ring.
    left: u32,
}

impl Remembered {
    /// At most `most`, each for as long as `longest` and up to a second more; none where either is nothing.
    pub(super) fn new(most: usize, longest: Duration) -> Self {
        // A ring never has all numbers.
        let most = if longest.is_zero() { 0 } else { most.min(1 << 31) };
        Self {
            most,
            longest,
            began: Instant::now(),
            ring: VecDeque::with_capacity(most.min(ROOM)),
            came: VecDeque::new(),
            places: HashTable::with_capacity(most.min(ROOM)),
            oldest: 0,
        }
    }

    pub(super) fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.places.find(fingerprint.hash(), |number| self.at(*number) == Some(fingerprint)).is_some()
    }

    /// Remembers one that it does not contain.
    pub(super) fn insert(&mut self, fingerprint: Fingerprint, now: Instant) {
        if self.most == 0 {
            return;
        }
        if self.ring.len() == self.most {
            self.forget_oldest();
        }
        let Ok(position) = u32::try_from(self.ring.len()) else { return };
        let number = self.oldest.wrapping_add(position);
        self.ring.push_back(fingerprint);
        self.note(self.second(now));
        let (ring, oldest) = (&self.ring, self.oldest);
        self.places.insert_unique(fingerprint.hash(), number, |number| {
            ring.get(number.wrapping_sub(oldest) as usize).map_or(0, |known| known.hash())
        });
    }

    /// One more came in this second, or in the one before it where a clock of another thread is behind.
    fn note(&mut self, second: u32) {
        match self.came.back_mut() {
            Some(newest) if newest.number >= second => newest.left += 1,
            _ => self.came.push_back(Second { number: second, left: 1 }),
        }
    }

    /// Forgets what is too old.
    pub(super) fn forget(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        // One that came in a second may have come at its very end.
        while let Some(Second { number, .. }) = self.came.front()
            && since >= Duration::from_secs(u64::from(*number) + 1).saturating_add(self.longest)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(second) = self.came.front_mut() {
            second.left -= 1;
            if second.left == 0 {
                self.came.pop_front();
            }
        }
        let Some(fingerprint) = self.ring.pop_front() else { return };
        let oldest = self.oldest;
        if let Ok(entry) = self.places.find_entry(fingerprint.hash(), |number| *number == oldest) {
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

    fn fingerprint(number: u64) -> Fingerprint {
        // Two of them have the same hash.
        Fingerprint(number, number ^ (number / 2))
    }

    #[test]
    fn the_oldest_make_room_also_when_the_numbers_wrap_around() {
        let mut remembered = Remembered::new(100, Duration::from_secs(60));
        remembered.oldest = u32::MAX - 150;
        let now = Instant::now();
        for number in 0..1000 {
            assert!(!remembered.contains(fingerprint(number)));
            remembered.insert(fingerprint(number), now);
            let oldest = (number + 1).saturating_sub(100);
            assert!((oldest..=number).all(|known| remembered.contains(fingerprint(known))));
            assert!(oldest == 0 || !remembered.contains(fingerprint(oldest - 1)));
        }
        let came: u32 = remembered.came.iter().map(|second| second.left).sum();
        assert_eq!((remembered.places.len(), remembered.ring.len(), came), (100, 100, 100));
    }

    #[test]
    fn a_ring_has_room_for_just_what_it_may_hold_and_one_number_for_each_second() {
        let mut remembered = Remembered::new(1_000, Duration::from_secs(600));
        let began = Instant::now();
        for number in 0..3_000 {
            remembered.insert(fingerprint(number), began + Duration::from_millis(number));
        }
        assert_eq!(remembered.ring.capacity(), 1_000);
        assert!(remembered.came.len() <= 3, "{}", remembered.came.len());
    }

    #[test]
    fn what_is_too_old_is_forgotten_and_the_rest_is_found() {
        let mut remembered = Remembered::new(100, Duration::from_secs(60));
        let began = Instant::now();
        for second in 0..90 {
            let now = began + Duration::from_secs(second);
            remembered.forget(now);
            remembered.insert(fingerprint(second), now);
        }
        // The 29th is 60 seconds old.
        assert!((0..29).all(|old| !remembered.contains(fingerprint(old))));
        assert!((29..90).all(|young| remembered.contains(fingerprint(young))));
    }

    #[test]
    fn each_is_remembered_as_long_as_it_was_asked_for_and_up_to_a_second_more() {
        let longest = Duration::from_millis(2_500);
        for came in [0, 1, 500, 999].map(Duration::from_millis) {
            let mut remembered = Remembered::new(100, longest);
            let came = remembered.began + came;
            remembered.insert(fingerprint(1), came);
            remembered.forget(came + longest);
            assert!(remembered.contains(fingerprint(1)), "forgotten too early: {came:?}");
            remembered.forget(came + longest + Duration::from_secs(1));
            assert!(!remembered.contains(fingerprint(1)), "forgotten too late: {came:?}");
        }
    }

    #[test]
    fn nothing_is_remembered_where_nothing_may_be() {
        for (most, longest) in [(0, Duration::from_secs(60)), (100, Duration::ZERO)] {
            let mut remembered = Remembered::new(most, longest);
            remembered.insert(fingerprint(1), Instant::now());
            assert!(!remembered.contains(fingerprint(1)));
        }
    }
}
