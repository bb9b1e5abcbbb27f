//! Runs a program to its end.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::{Failure, Outcome};

/// Runs it with `input` on its standard input, and gives what it printed. What it said when it failed is the failure.
pub fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Outcome<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure(format!("cannot run {program}: {error}; is it on PATH?")))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // One that reads no input says why when it ends.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| Failure(format!("{}: {error}", what())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure(format!("{}: {}", what(), said.trim())));
    }
    String::from_utf8(output.stdout).map_err(|error| Failure(format!("{}: {error}", what())))
}
