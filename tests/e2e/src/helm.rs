//! The chart, as `helm` installs it.

use std::path::Path;

use serde_json::Value;

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

    /// The objects of these templates, with these values.
    pub fn render(&self, values: &[String], templates: &[&str]) -> Outcome<Vec<Value>> {
        let chart = chart()?;
        // A helm that was built from its module would render for a far older Kubernetes.
        let mut arguments = vec!["template", self.name, &chart, "--kube-version", "1.29.0"];
        arguments.extend(["--namespace", self.namespace]);
        for template in templates {
            arguments.extend(["--show-only", template]);
        }
        for value in values {
            arguments.extend(["--set", value]);
        }
        let yaml = command::run("helm", &arguments, None)?;
        serde_saphyr::from_multiple(&yaml)
            .map_err(|error| Failure(format!("what helm renders is not YAML: {error}")))
    }

    /// Goes back to the revision before, and waits until its pods are ready.
    pub fn roll_back(&self) -> Outcome {
        let arguments = ["rollback", self.name, "--namespace", self.namespace, "--wait", "--timeout", "120s"];
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
