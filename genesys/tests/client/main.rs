//! The client against the simulator over real HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod authority;
mod bounds;
mod budget;
mod event_bridges;
mod faults;
mod host_policy;
mod integrations;
mod network;
mod organisation;
mod secrecy;
mod tokens;

use std::process::Command;

/// Runs one ignored test in a process of its own, with this environment. Its output is the error where it fails.
fn alone(test: &str, environment: &[(&str, &str)]) -> Result<(), String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(text.contains("running 1 test"), "{text}");
    if output.status.success() { Ok(()) } else { Err(text) }
}
