//! `tests/harness`, which brings up a cluster and a broker.

use crate::{Failure, Outcome, command, kubectl, tree};

/// The commands that bring up a part of it and make it this shell's.
pub fn how_to_get(part: &str) -> String {
    format!("tests/harness/{part} up && eval \"$(tests/harness/{part} env)\"")
}

/// Fails unless `kubectl` reaches a cluster.
pub fn ensure_cluster() -> Outcome {
    kubectl::run(&["get", "--raw", "/readyz"])
        .map(drop)
        .map_err(|failure| Failure(format!("{failure}\n      to get a cluster: {}", how_to_get("cluster"))))
}

/// A path that `tests/harness/paths.sh` sets.
pub fn path(variable: &str) -> Outcome<String> {
    let script =
        format!(". '{}' && printf %s \"${variable}\"", tree::path("tests/harness/paths.sh").display());
    command::run("bash", &["-euo", "pipefail", "-c", &script], None)
}

/// Runs one of its scripts.
pub fn run(script: &str, arguments: &[&str]) -> Outcome<String> {
    command::run(&tree::path("tests/harness").join(script).display().to_string(), arguments, None)
}
