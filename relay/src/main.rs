//! `presenceroute-relay`: reads its arguments and runs a relay until SIGTERM or SIGINT.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use presenceroute_relay::settings::{Command, SECRET_VARIABLE};
use presenceroute_relay::{Arguments, Relay, Settings, Spans, http, replay};
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be there yet, and this is for the person who started it.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

// One thread serves all connections, and another of the Kafka library's sends: a second one of the runtime's would cost
// each event a third more at usual rates (docs/performance-notes.md) for a tenth more of events at the utmost. Relays
// grow by the number of pods.
#[tokio::main(flavor = "current_thread")]
async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let level = presenceroute_runtime::log::start(&arguments.log_level, arguments.log_format)?;
    if let Some(path) = &arguments.log_level_file {
        tokio::spawn(level.follow(path.clone()));
    }
    http::limits::raise_open_files();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let secret = std::env::var(SECRET_VARIABLE).ok().map(SecretString::from);
    let command = arguments.command.clone();
    let mut settings = Settings::resolve(arguments, secret)?;
    if let Some(Command::Replay(arguments)) = command {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
            stopped.cancel();
        });
        replay::run(settings, &arguments, stop, print).await?;
        return Ok(());
    }
    settings.spans = Spans::from_environment()?;
    let relay = Relay::start(settings).await?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    // Further signals change nothing: an event in flight is not given up.
    relay.shutdown().await;
    Ok(())
}

/// Prints a line. A reader that has gone away wants no more.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
