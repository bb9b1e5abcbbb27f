//! Where log lines go. The level and the form are the operator's and the person's to choose.

use tracing_subscriber::EnvFilter;

use crate::settings::LogFormat;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A level that is none.
    #[error("--log-level {level:?} is not legal: {cause}; use error, warn, info, debug or trace")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        cause: tracing_subscriber::filter::ParseError,
    },
}

/// Sends this process's log to standard error.
pub fn start(level: &str, format: LogFormat) -> Result<(), LogError> {
    let filter =
        EnvFilter::try_new(level).map_err(|cause| LogError::Level { level: level.to_owned(), cause })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
