//! How many receives run at once: one while the queue is nearly empty, and more as long as they come back full.

use super::client::MOST_MESSAGES;

/// The most receives at once. A receive and its answer take about 10 ms within an AWS region, so this is far more than
/// a relay can publish.
pub(super) const MOST_RECEIVES: usize = 32;

/// How many receives the work needs.
#[derive(Debug)]
pub(super) struct Scale {
    wanted: usize,
}

impl Scale {
    /// One.
    pub(super) fn new() -> Self {
        Self { wanted: 1 }
    }

    /// How many there should be.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// A receive brought so many messages.
    pub(super) fn received(&mut self, messages: usize) {
        self.wanted = match messages {
            0 => 1,
            // A queue of Amazon SQS gives fewer than ten also while it has more.
            _ if messages >= MOST_MESSAGES => self.wanted * 2,
            _ if messages >= MOST_MESSAGES / 2 => self.wanted + 1,
            _ => self.wanted - self.wanted / 4,
        }
        .clamp(1, MOST_RECEIVES);
    }

    /// A receive failed.
    pub(super) fn failed(&mut self) {
        self.wanted = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_receives_are_more_of_them_and_an_empty_one_is_one() {
        let mut scale = Scale::new();
        let wanted: Vec<_> = [10, 10, 5, 10, 10, 10, 10]
            .map(|messages| {
                scale.received(messages);
                scale.wanted()
            })
            .into();
        assert_eq!(wanted, [2, 4, 5, 10, 20, 32, 32]);
        scale.received(2);
        assert_eq!(scale.wanted(), 24);
        scale.received(0);
        assert_eq!(scale.wanted(), 1);
        scale.received(1);
        assert_eq!(scale.wanted(), 1);
        scale.received(10);
        scale.failed();
        assert_eq!(scale.wanted(), 1);
    }
}
