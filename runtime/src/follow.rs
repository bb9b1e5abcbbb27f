//! Following files that change while the program runs: the last valid value stays in use, an invalid one is reported.
//!
//! What a file means, and whether its content changed, is the caller's `read` to decide.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often files are read, and so how long a change may take to be noticed.
pub const INTERVAL: Duration = Duration::from_millis(200);

/// A value that is read from files.
#[derive(Debug)]
pub struct Reloaded<T> {
    /// The last valid value, if there was one.
    pub current: Option<Arc<T>>,
    /// Why the newest content is not in use, while it is not.
    pub error: Option<String>,
}

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), error: self.error.clone() }
    }
}

impl<T> Reloaded<T> {
    /// A value that is in use.
    pub fn loaded(value: T) -> Self {
        Self { current: Some(Arc::new(value)), error: None }
    }

    /// No value yet, for this reason.
    pub fn not_loaded(error: impl Into<String>) -> Self {
        Self { current: None, error: Some(error.into()) }
    }
}

/// The result of one read.
pub enum Reload<T> {
    /// The content is that of the last read.
    Unchanged,
    /// The content changed and is valid.
    Loaded(T),
    /// The content changed and is not valid.
    Invalid(String),
}

/// A value that never changes, for readers of one that may.
pub fn fixed<T>(value: T) -> watch::Receiver<Reloaded<T>> {
    watch::Sender::new(Reloaded::loaded(value)).subscribe()
}

/// Calls `read` every [`INTERVAL`] in a task of its own, until `stop`. The first call is over when this returns; until
/// then the value is missing because of `not_read_yet`.
pub async fn start<T: Send + Sync + 'static>(
    not_read_yet: &str,
    stop: CancellationToken,
    read: impl FnMut() -> Reload<T> + Send + 'static,
) -> watch::Receiver<Reloaded<T>> {
    let into = watch::Sender::new(Reloaded::not_loaded(not_read_yet));
    let mut value = into.subscribe();
    tokio::spawn(follow(into, stop, read));
    // An error means that `stop` came first.
    let _ = value.changed().await;
    value
}

async fn follow<T: Send + Sync + 'static>(
    into: watch::Sender<Reloaded<T>>,
    stop: CancellationToken,
    mut read: impl FnMut() -> Reload<T> + Send + 'static,
) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        // A disk that hangs blocks a thread of its own, not those that serve.
        let Ok((result, again)) = tokio::task::spawn_blocking(move || (read(), read)).await else { return };
        read = again;
        match result {
            Reload::Unchanged => {}
            Reload::Loaded(value) => {
                into.send_replace(Reloaded::loaded(value));
            }
            Reload::Invalid(error) => into.send_modify(|reloaded| reloaded.error = Some(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::time::Instant;

    fn number(path: &Path) -> Reload<u32> {
        match std::fs::read_to_string(path).unwrap().parse() {
            Ok(number) => Reload::Loaded(number),
            Err(error) => Reload::Invalid(error.to_string()),
        }
    }

    /// Time stands still while anything is done, so only waiting counts, however busy the machine is.
    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_within_250_ms() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1").unwrap();
        let path = file.path().to_owned();
        let mut value = start("not read yet", CancellationToken::new(), move || number(&path)).await;
        assert_eq!(value.borrow_and_update().current.as_deref(), Some(&1));
        for newer in [2, 3] {
            std::fs::write(file.path(), newer.to_string()).unwrap();
            let written = Instant::now();
            value.wait_for(|value| value.current.as_deref() == Some(&newer)).await.unwrap();
            assert!(written.elapsed() <= Duration::from_millis(250), "{:?}", written.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_invalid_change_keeps_the_last_value_and_is_reported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1").unwrap();
        let path = file.path().to_owned();
        let mut value = start("not read yet", CancellationToken::new(), move || number(&path)).await;
        std::fs::write(file.path(), "one").unwrap();
        let invalid = value.wait_for(|value| value.error.is_some()).await.unwrap();
        assert_eq!(invalid.current.as_deref(), Some(&1));
    }
}
