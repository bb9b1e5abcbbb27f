//! `kubectl presenceroute`, the one that was built beside this test.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::{Failure, Outcome, command, ensure};

/// kubectl with the plugin on its path.
pub struct Plugin {
    path: OsString,
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
    /// Finds the plugin where cargo puts it, and puts it and its completions on kubectl's path.
    pub fn built() -> Outcome<Self> {
        let built = command::built("kubectl-presenceroute")?;
        let completions = command::own_directory().join("plugin");
        let before = env::var_os("PATH").unwrap_or_default();
        let places = [Some(completions), built.parent().map(PathBuf::from)];
        let places = places.into_iter().flatten().chain(env::split_paths(&before));
        let path = env::join_paths(places).map_err(|error| Failure(error.to_string()))?;
        let plugin = Self { path };
        let script = plugin.run(&["presenceroute", "completion", "kubectl"])?;
        let file = plugin.file("kubectl_complete-presenceroute", &script.output)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
            .map_err(|error| Failure(format!("{file}: {error}")))?;
        Ok(plugin)
    }

    /// A file for it to read.
    pub fn file(&self, name: &str, content: &str) -> Outcome<String> {
        Ok(command::file(&format!("plugin/{name}"), content)?.display().to_string())
    }

    /// Runs kubectl with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Outcome<Ran> {
        let output = command::new("kubectl")
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
