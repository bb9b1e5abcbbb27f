//! A point in time, written as Genesys writes dates: RFC 3339 in UTC with milliseconds.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// A wall-clock time; shown and serialised like `2026-01-31T12:00:00.250Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Timestamp);

impl Moment {
    /// The present, by the system's clock.
    #[must_use]
    pub fn now() -> Self {
        Self(Timestamp::now())
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_milliseconds(self) -> i64 {
        self.0.as_millisecond()
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
