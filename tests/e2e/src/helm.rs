//! The chart, as `helm` installs it.

use std::path::Path;

use crate::command;
use crate::{Failure, Outcome};

/// One release of the chart in this tree.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its name.
    pub name: &'static str,
    /// Its namespace.
    pub namespace: &'static str,
}

impl Release {
    /// Installs or upgrades it with these values, and waits until its pods are ready.
    pub fn upgrade(&self, values: &[String], options: &[&str]) -> Outcome {
        let chart = chart()?;
        let mut arguments = vec!["upgrade", "--install", self.name, &chart, "--namespace", self.namespace];
        arguments.extend(["--wait", "--timeout", "120s"]);
        arguments.extend(options);
        for value in values {
            arguments.extend(["--set", value]);
        }
        command::run("helm", &arguments, None).map(drop)
    }

    /// Uninstalls it, and waits until its objects are gone.
    pub fn uninstall(&self) -> Outcome {
        let arguments = [
            "uninstall",
            self.name,
            "--namespace",
            self.namespace,
            "--wait",
            "--timeout",
            "120s",
            "--ignore-not-found",
        ];
        command::run("helm", &arguments, None).map(drop)
    }
}

fn chart() -> Outcome<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/presenceroute");
    let path = path.canonicalize().map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    Ok(path.display().to_string())
}
