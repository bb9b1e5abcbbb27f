//! What the system knows of another process: its processor time and its memory.

use std::fs;
use std::io::{Error, Result};
use std::time::Duration;

/// `USER_HZ`, in which Linux counts on every architecture that matters here.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of all its threads, so far.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in parentheses, may hold blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND)),
        _ => Err(Error::other(format!("/proc/{pid}/stat has no times"))),
    }
}

/// Memory in KiB: now, and at most so far.
pub(crate) fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()?.parse().ok()
    };
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(now), Some(most)) => Ok((now, most)),
        _ => Err(Error::other(format!("/proc/{pid}/status has no memory"))),
    }
}
