//! How many sockets and files this process may have open, and how many of them are for senders.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most connections of senders, however many descriptors there may be. Memory may allow fewer.
const MOST_CONNECTIONS: usize = 16_384;

/// What is kept for Kafka's connections, the admin port, and the files that are read again and again.
const KEPT: usize = 512;

/// Raises the soft limit on open files to the hard one. Some systems start every process with a soft limit of
/// 1,024, out of regard for programs that use `select`; this one does not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // It cannot fail within the hard limit, and if it did, the lower limit would be kept to all the same.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// For how many connections of senders there are descriptors.
pub(crate) fn most_connections() -> usize {
    within(getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok()))
}

/// Without a limit, as many as are reasonable; with one that is very low, half of it.
fn within(limit: Option<usize>) -> usize {
    let Some(limit) = limit else { return MOST_CONNECTIONS };
    limit.saturating_sub(KEPT).max(limit / 2).min(MOST_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_get_what_the_relay_itself_does_not_need() {
        assert_eq!(within(None), 16_384);
        assert_eq!(within(Some(1_048_576)), 16_384);
        assert_eq!(within(Some(4_096)), 3_584);
        assert_eq!(within(Some(256)), 128);
    }
}
