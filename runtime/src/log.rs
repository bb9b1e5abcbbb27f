//! The log: one line an event on standard error, as text for people or as JSON for machines. Its level can change
//! while the program runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use parking_lot::Mutex;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, fmt, reload};

/// How often the file with the level is read.
const EVERY: Duration = Duration::from_secs(1);

/// The level of this process's log. There is one log a process, so there is one level.
static CURRENT: Mutex<Option<String>> = Mutex::new(None);

/// Added to a level more verbose than `info`, unless it names h2 itself: that library writes a line for each frame of
/// HTTP/2, with whatever its sender chose to send.
const QUIETER: &str = "h2=info";

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no log, or not at this level.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level, nor a filter of them.
    #[error(
        "the log level {0:?} is not legal; use error, warn, info, debug or trace, or a filter such as info,kube=debug"
    )]
    Level(String),
    /// A filter that cannot be read.
    #[error("the log level {level:?} is not legal: {cause}")]
    Filter {
        /// What was given.
        level: String,
        /// What is wrong with it.
        cause: ParseError,
    },
    /// This process has a log already.
    #[error(transparent)]
    Started(#[from] TryInitError),
    /// The log is gone.
    #[error(transparent)]
    Gone(#[from] reload::Error),
}

/// Changes the level of the log.
pub struct Level(reload::Handle<EnvFilter, Registry>);

/// Starts this process's log. A level is one of error, warn, info, debug and trace, or a filter as
/// `tracing-subscriber` reads it, such as `info,kube=debug`.
pub fn start(level: &str, format: LogFormat) -> Result<Level, LogError> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(fmt::layer().with_ansi(is_terminal).with_writer(std::io::stderr)).try_init()?;
        }
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()?;
        }
    }
    remember(level);
    Ok(Level(handle))
}

/// The level of this process's log, where it has one.
pub fn level() -> Option<String> {
    CURRENT.lock().clone()
}

fn remember(level: &str) {
    *CURRENT.lock() = Some(level.to_owned());
}

impl Level {
    /// Logs at this level from now on.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        self.0.reload(filter(level)?)?;
        remember(level);
        Ok(())
    }

    /// Follows the level that is written in a file, for as long as it is polled. A file that is missing or has no
    /// legal level leaves the log as it is.
    pub async fn follow(self, path: PathBuf) {
        let mut every = tokio::time::interval(EVERY);
        let mut known = None;
        loop {
            every.tick().await;
            let read = read(&path).await;
            if known.as_ref() != Some(&read) {
                self.take(&read);
                known = Some(read);
            }
        }
    }

    fn take(&self, read: &Result<String, String>) {
        match read.as_ref().map(|level| (level, self.set(level))) {
            Ok((level, Ok(()))) => tracing::info!(log_level = level, "log level changed"),
            Ok((_, Err(error))) => tracing::error!(%error, "invalid log level, keeping the current one"),
            Err(error) => tracing::error!(error, "cannot read the log level, keeping the current one"),
        }
    }
}

async fn read(path: &Path) -> Result<String, String> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|cause| format!("{} cannot be read: {cause}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A word that is no level would be taken for the name of a module, and the log would fall silent.
fn filter(level: &str) -> Result<EnvFilter, LogError> {
    // Nothing at all would be read as the level error.
    let is_legal = |directive: &&str| {
        directive.contains(['=', '[']) || (!directive.is_empty() && directive.parse::<LevelFilter>().is_ok())
    };
    let mut directives: Vec<&str> = level.split(',').map(str::trim).collect();
    if !directives.iter().all(is_legal) {
        return Err(LogError::Level(level.to_owned()));
    }
    let is_verbose =
        |directive: &&str| directive.parse().is_ok_and(|level: LevelFilter| level > LevelFilter::INFO);
    if directives.iter().any(is_verbose) && !directives.iter().any(|directive| directive.starts_with("h2")) {
        directives.push(QUIETER);
    }
    EnvFilter::try_new(directives.join(","))
        .map_err(|cause| LogError::Filter { level: level.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_a_filter_is_taken_and_a_misspelt_one_is_not() {
        for legal in ["error", "INFO", "debug", "off", "info,kube=debug", "hyper=trace", "info, kube=warn"] {
            assert!(filter(legal).is_ok(), "{legal}");
        }
        for illegal in ["", "infoo", "verbose", "info,kube", "kube=loud", "info,"] {
            assert!(filter(illegal).is_err(), "{illegal}");
        }
        assert!(filter("infoo").unwrap_err().to_string().contains("use error, warn, info, debug or trace"));
    }

    #[tokio::test]
    async fn the_level_is_what_the_file_says_and_outlives_nonsense_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (_log, handle) = reload::Layer::new(filter("info").unwrap());
        let level = Level(handle);
        let written = async |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            level.take(&read(file.path()).await);
            level.0.with_current(ToString::to_string).unwrap()
        };
        assert_eq!(written("debug\n").await, "h2=info,debug");
        assert_eq!(written("infoo").await, "h2=info,debug");
        assert_eq!(written("").await, "h2=info,debug");
        assert_eq!(written("warn,hyper=off").await, "hyper=off,warn");
        assert_eq!(written("trace,h2=debug").await, "h2=debug,trace");
        assert_eq!(written("warn,hyper=off").await, "hyper=off,warn");
        level.take(&read(Path::new("/nowhere")).await);
        assert_eq!(level.0.with_current(ToString::to_string).unwrap(), "hyper=off,warn");
    }
}
