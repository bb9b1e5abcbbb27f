//! How much memory this process may have, and how many connections of senders fit into it.

use std::fs;
use std::path::Path;

use presenceroute_core::relay_config::Limits;

/// Where version 2 of Linux's control groups is mounted, in a container as on a machine.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What a connection takes that has been used, as docs/performance.md has it measured. What a request takes beside that
/// is the intake's to reserve.
const CONNECTION_BYTES: u64 = 16 << 10;

/// The same with TLS, where records and hellos that are not whole are kept, too.
const TLS_CONNECTION_BYTES: u64 = 48 << 10;

/// The program itself, the Kafka library, what is remembered, and some to spare.
const PROGRAM_BYTES: u64 = 32 << 20;

/// How many connections of senders, with TLS or without, fit into memory beside the events that `limits` allows; `None`
/// where memory has no limit that is known. With a limit that is too low for all of that, an eighth of it is theirs.
pub(crate) fn most_connections(limits: &Limits, has_tls: bool) -> Option<usize> {
    let each = if has_tls { TLS_CONNECTION_BYTES } else { CONNECTION_BYTES };
    Some(fitting(limit()?, limits.max_in_flight_bytes, each))
}

fn fitting(limit: u64, max_in_flight_bytes: usize, each: u64) -> usize {
    let events = u64::try_from(max_in_flight_bytes).unwrap_or(u64::MAX);
    let left = limit.saturating_sub(PROGRAM_BYTES).saturating_sub(events).max(limit / 8);
    usize::try_from(left / each).unwrap_or(usize::MAX)
}

/// This process's limit of memory, in bytes.
fn limit() -> Option<u64> {
    lowest(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new(CONTROL_GROUPS))
}

/// The lowest limit of the group that `/proc/self/cgroup` names and of those around it. A container sees its own group
/// as the outermost.
fn lowest(groups: &str, mounted: &Path) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = mounted.join(own);
    let around = group.ancestors().take_while(|around| around.starts_with(mounted));
    // One without a limit says `max`, and the outermost of a machine nothing.
    around.filter_map(|around| fs::read_to_string(around.join("memory.max")).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: u64 = 1 << 20;

    #[test]
    fn connections_get_what_the_program_and_its_events_leave() {
        let events = Limits::default().max_in_flight_bytes;
        // The limit that a relay pod has by default holds the ten thousand that docs/performance.md promises.
        assert_eq!(fitting(256 * MEBIBYTE, events, CONNECTION_BYTES), 10_240);
        assert_eq!(fitting(128 * MEBIBYTE, events, CONNECTION_BYTES), 2_048);
        assert_eq!(fitting(64 * MEBIBYTE, events, CONNECTION_BYTES), 512);
        assert_eq!(fitting(256 * MEBIBYTE, 4 << 20, CONNECTION_BYTES), 14_080);
        assert_eq!(fitting(256 * MEBIBYTE, events, TLS_CONNECTION_BYTES), 3_413);
    }

    #[test]
    fn the_lowest_limit_around_the_process_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let own = mounted.path().join("pods/relay");
        fs::create_dir_all(&own).unwrap();
        let groups = "4:memory:/elsewhere\n0::/pods/relay\n";
        assert_eq!(lowest(groups, mounted.path()), None);
        fs::write(own.join("memory.max"), "max\n").unwrap();
        fs::write(mounted.path().join("pods/memory.max"), "268435456\n").unwrap();
        assert_eq!(lowest(groups, mounted.path()), Some(256 * MEBIBYTE));
        fs::write(own.join("memory.max"), "134217728\n").unwrap();
        assert_eq!(lowest(groups, mounted.path()), Some(128 * MEBIBYTE));
        // Inside a container, the own group is all there is to see.
        fs::write(mounted.path().join("memory.max"), "67108864\n").unwrap();
        assert_eq!(lowest("0::/\n", mounted.path()), Some(64 * MEBIBYTE));
        assert_eq!(lowest("4:memory:/elsewhere\n", mounted.path()), None);
    }
}
