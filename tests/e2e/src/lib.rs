//! What the tests on a cluster work with: a real cluster through `kubectl` and `helm`, a real broker, and the Genesys
//! simulator through its control API. Nothing here knows what is to be proven; that stands in `tests`.

pub mod audit;
pub mod aws;
pub mod command;
pub mod example;
pub mod harness;
pub mod helm;
pub mod kafka;
pub mod kubectl;
pub mod markdown;
pub mod plugin;
pub mod prometheus;
pub mod promql;
pub mod route;
pub mod scratch;
pub mod simulator;
pub mod steps;
pub mod suite;
pub mod tree;
pub mod wait;

use std::fmt;

/// Why something is not as it should be, in words for a person.
#[derive(Clone, Debug)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a step gives, or why it failed.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Fails with `otherwise` unless `condition` holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Failure(otherwise())) }
}

/// Fails unless both are the same, and shows both.
pub fn ensure_same<T: PartialEq + fmt::Debug>(what: &str, actual: &T, expected: &T) -> Outcome {
    ensure(actual == expected, || format!("{what}: expected {expected:?}, found {actual:?}"))
}
