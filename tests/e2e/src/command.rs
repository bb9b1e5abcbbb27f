//! Runs a program to its end.
//!
//! `kubectl` and `helm` have caches and settings of this process alone: a definition that one test makes for itself is in
//! no other test's cache, and the user's plugins and repositories take no part.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Failure, Outcome};

/// How long a program may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A program with the caches of this process.
pub fn new(program: impl AsRef<Path>) -> Command {
    let home = own_directory();
    let mut command = Command::new(program.as_ref());
    command
        .env("KUBECACHEDIR", home.join("kube"))
        .env("HELM_CACHE_HOME", home.join("helm/cache"))
        .env("HELM_CONFIG_HOME", home.join("helm/config"))
        .env("HELM_DATA_HOME", home.join("helm/data"));
    command
}

/// Where the files of this process are, until [`clear`].
pub fn own_directory() -> PathBuf {
    env::temp_dir().join(format!("presenceroute-e2e-{}", process::id()))
}

/// A file of this process with this content.
pub fn file(name: &str, content: &str) -> Outcome<PathBuf> {
    let file = own_directory().join(name);
    let written = file.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&file, content));
    written.map_err(|error| Failure(format!("{}: {error}", file.display())))?;
    Ok(file)
}

/// Removes all files of this process.
pub fn clear() {
    let _ = fs::remove_dir_all(own_directory());
}

/// Runs a program with `input` on its standard input. Returns what it printed, or as the failure its complaint.
pub fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Outcome<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure(format!("cannot run {program}: {error}; is it on PATH?")))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        // A program that does not read its input says why when it ends.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| Failure(format!("{}: {error}", what())))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(Failure(format!("{}: {}", what(), complaint.trim())));
    }
    String::from_utf8(output.stdout).map_err(|error| Failure(format!("{}: {error}", what())))
}

/// A program of this workspace, where cargo puts it beside this test.
pub fn built(program: &str) -> Outcome<PathBuf> {
    let this = env::current_exe().map_err(|error| Failure(format!("this test's own path: {error}")))?;
    let path = this.ancestors().nth(2).unwrap_or(Path::new("")).join(program);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure(format!("{} is missing; build it: cargo build --workspace --bin {program}", path.display())))
}

/// Asks a program to end, insists after 10 s, and returns when it is gone.
pub fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
    let deadline = Instant::now() + GRACE;
    while asked && Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}
