//! How many connections of senders this process may have: as many as its file descriptors and its memory allow.

use std::fs;
use std::path::Path;

use presenceroute_core::relay_config::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most connections of senders, however many descriptors there may be. Memory may allow fewer.
const MAX_CONNECTIONS: usize = 16_384;

/// What is reserved for Kafka's connections, the admin port, and the files that are read again and again.
const RESERVED: usize = 512;

/// Raises the soft limit on open files to the hard one. Some systems start every process with a soft limit of 1,024, for
/// programs that use `select`; this one does not.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // It cannot fail within the hard limit; if it did, the lower limit would be respected.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// For how many connections of senders there are file descriptors.
fn by_descriptors() -> usize {
    within_descriptors(getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok()))
}

/// Without a limit, as many as are reasonable; with one that is very low, half of it.
fn within_descriptors(limit: Option<usize>) -> usize {
    let Some(limit) = limit else { return MAX_CONNECTIONS };
    limit.saturating_sub(RESERVED).max(limit / 2).min(MAX_CONNECTIONS)
}

/// Where version 2 of Linux's control groups is mounted, in a container as on a machine.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// What a used connection takes, as measured in docs/performance.md. What a request takes beside that is reserved in the
/// memory budget.
const CONNECTION_BYTES: u64 = 16 << 10;

/// The same with TLS, which keeps incomplete records and hellos, too.
const TLS_CONNECTION_BYTES: u64 = 48 << 10;

/// The program itself, the Kafka library, a dedupe window of [`USUAL_IDS`], and a reserve.
const PROGRAM_BYTES: u64 = 32 << 20;

/// How many ids the dedupe window holds by default.
const USUAL_IDS: usize = 100_000;

/// What one id in the dedupe window takes, with the gaps of its table.
const ID_BYTES: u64 = 25;

/// How many connections of senders, with TLS or without, fit into memory beside the events that `limits` allows; `None`
/// where no memory limit is known. With a limit that is too low for all of that, connections get an eighth of it.
fn by_memory(limits: &Limits, has_tls: bool) -> Option<usize> {
    let each = if has_tls { TLS_CONNECTION_BYTES } else { CONNECTION_BYTES };
    Some(within_memory(memory_limit()?, limits, each))
}

fn within_memory(limit: u64, limits: &Limits, each: u64) -> usize {
    let events = u64::try_from(limits.max_in_flight_bytes).unwrap_or(u64::MAX);
    let more_ids = u64::try_from(limits.dedupe_max_ids.saturating_sub(USUAL_IDS)).unwrap_or(u64::MAX);
    let program = PROGRAM_BYTES.saturating_add(more_ids.saturating_mul(ID_BYTES));
    let left = limit.saturating_sub(program).saturating_sub(events).max(limit / 8);
    usize::try_from(left / each).unwrap_or(usize::MAX)
}

/// This process's limit of memory, in bytes.
fn memory_limit() -> Option<u64> {
    lowest(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new(CONTROL_GROUPS))
}

/// The lowest limit of the group that `/proc/self/cgroup` names and of those around it. A container sees its own group
/// as the outermost.
fn lowest(groups: &str, mounted: &Path) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = mounted.join(own);
    let around = group.ancestors().take_while(|around| around.starts_with(mounted));
    // A group without a limit has `max`, and the outermost group of a machine has no such file.
    around.filter_map(|around| fs::read_to_string(around.join("memory.max")).ok()?.trim().parse().ok()).min()
}

/// How many connections of senders may be open, with TLS or without, beside the events that `limits` allows.
pub fn max_connections(limits: &Limits, has_tls: bool) -> usize {
    by_descriptors().min(by_memory(limits, has_tls).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_get_the_descriptors_that_the_relay_does_not_need() {
        assert_eq!(within_descriptors(None), 16_384);
        assert_eq!(within_descriptors(Some(1_048_576)), 16_384);
        assert_eq!(within_descriptors(Some(4_096)), 3_584);
        assert_eq!(within_descriptors(Some(256)), 128);
    }

    const MEBIBYTE: u64 = 1 << 20;

    #[test]
    fn connections_get_the_memory_that_program_ids_and_events_leave() {
        let usual = Limits::default();
        // The limit that a relay pod has by default holds the ten thousand that docs/performance.md promises.
        assert_eq!(within_memory(256 * MEBIBYTE, &usual, CONNECTION_BYTES), 10_240);
        assert_eq!(within_memory(128 * MEBIBYTE, &usual, CONNECTION_BYTES), 2_048);
        assert_eq!(within_memory(64 * MEBIBYTE, &usual, CONNECTION_BYTES), 512);
        let few_events = Limits { max_in_flight_bytes: 4 << 20, ..usual.clone() };
        assert_eq!(within_memory(256 * MEBIBYTE, &few_events, CONNECTION_BYTES), 14_080);
        let many_ids = Limits { dedupe_max_ids: 1_200_000, ..usual.clone() };
        assert_eq!(within_memory(256 * MEBIBYTE, &many_ids, CONNECTION_BYTES), 8_561);
        assert_eq!(within_memory(256 * MEBIBYTE, &usual, TLS_CONNECTION_BYTES), 3_413);
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
