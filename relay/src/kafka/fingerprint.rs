//! What identifies a delivery: hashes of an event's bytes and of its id and topic, with keys of this process.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;

/// Identifies one event to one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint(pub(super) u64, pub(super) u64);

impl Fingerprint {
    /// One number of both, for a table of fingerprints: they are hashes already.
    pub(super) fn hash(self) -> u64 {
        self.0 ^ self.1
    }
}

/// Makes fingerprints. Those of one hasher can be compared with each other only.
#[derive(Default)]
pub(super) struct Hasher(RandomState);

impl Hasher {
    pub(super) fn fingerprint(&self, id: &str, body: &[u8], topic: &str) -> Fingerprint {
        Fingerprint(self.0.hash_one(body), self.0.hash_one((id, topic)))
    }
}
