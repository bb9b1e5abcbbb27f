//! `kubectl presenceroute`, the one that was built beside this test.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::{Failure, Outcome, ensure};

/// kubectl with the plugin on its path.
pub struct Plugin {
    path: OsString,
    directory: PathBuf,
}

/// How a run ended, and what it printed.
pub struct Ran {
    /// Whether its exit code is 0.
    pub succeeded: bool,
    /// What it printed.
    pub output: String,
    /// What it printed on standard error.
    pub complaint: String,
}

impl Plugin {
    /// Finds the plugin where cargo puts it, and gives kubectl a way to it and to its completions.
    pub fn built() -> Outcome<Self> {
        let failed = |error: std::io::Error| Failure(format!("no way to the plugin: {error}"));
        let this = env::current_exe().map_err(failed)?;
        let built = this.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
        ensure(built.join("kubectl-presenceroute").is_file(), || {
            format!(
                "{} has no kubectl-presenceroute; build it: cargo build -p kubectl-presenceroute",
                built.display()
            )
        })?;
        let directory = env::temp_dir().join(format!("presenceroute-e2e-{}", std::process::id()));
        fs::create_dir_all(&directory).map_err(failed)?;
        let before = env::var_os("PATH").unwrap_or_default();
        let places = [directory.clone(), built].into_iter().chain(env::split_paths(&before));
        let path = env::join_paths(places).map_err(|error| Failure(error.to_string()))?;
        let plugin = Self { path, directory };
        let script = plugin.run(&["presenceroute", "completion", "kubectl"])?;
        let file = plugin.file("kubectl_complete-presenceroute", &script.output)?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(plugin)
    }

    /// A file for it to read.
    pub fn file(&self, name: &str, content: &str) -> Outcome<String> {
        let file = self.directory.join(name);
        fs::write(&file, content).map_err(|error| Failure(format!("{}: {error}", file.display())))?;
        Ok(file.display().to_string())
    }

    /// Runs kubectl with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Outcome<Ran> {
        let output = Command::new("kubectl")
            .args(arguments)
            .env("PATH", &self.path)
            .output()
            .map_err(|error| Failure(format!("cannot run kubectl: {error}")))?;
        Ok(Ran {
            succeeded: output.status.success(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl Ran {
    /// What it printed, when it succeeded.
    pub fn well(self) -> Outcome<String> {
        ensure(self.succeeded, || format!("{}{}", self.output, self.complaint))?;
        Ok(self.output)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
