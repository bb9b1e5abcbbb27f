//! The harness's own API server, which may be restarted.

use std::path::PathBuf;
use std::process::Command;

/// The script that stops and starts it; `None` where the cluster is not the harness's.
pub(crate) struct HarnessApiServer(PathBuf);

impl HarnessApiServer {
    pub(crate) fn find() -> Option<Self> {
        let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/harness/api-server"));
        let is_up = Command::new(&script).arg("status").status().is_ok_and(|status| status.success());
        is_up.then_some(Self(script))
    }

    pub(crate) fn stop(&self) {
        self.run("stop");
    }

    pub(crate) fn start(&self) {
        self.run("start");
    }

    fn run(&self, command: &str) {
        let status = Command::new(&self.0).arg(command).status().unwrap();
        assert!(status.success(), "{} {command} failed", self.0.display());
    }
}

impl Drop for HarnessApiServer {
    /// A test that failed in between leaves the API server running.
    fn drop(&mut self) {
        let _ = Command::new(&self.0).arg("start").status();
    }
}
