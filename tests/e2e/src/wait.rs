//! Waits. Every wait has a condition and a deadline.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Failure, Outcome};

const PAUSE: Duration = Duration::from_millis(100);

/// Asks again until there is an answer. When time is up, the failure has the last reason why there was none.
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Outcome<T>) -> Outcome<T> {
    let deadline = Instant::now() + patience;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(failure) if Instant::now() >= deadline => {
                let seconds = patience.as_secs();
                return Err(Failure(format!("waited {seconds} s until {what}; at the end: {failure}")));
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

/// So many seconds.
pub const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}
