//! The chart, as `helm` installs it.

use serde_json::Value;

use crate::{Failure, Outcome, command, tree};

/// One release of the chart in this tree.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Its name.
    pub name: &'static str,
    /// Its namespace.
    pub namespace: &'static str,
}

impl Release {
    /// Installs or upgrades it with these values, and waits until its pods are ready.
    pub fn upgrade(&self, values: &[String], options: &[&str]) -> Outcome {
        let settings = values.iter().flat_map(|value| ["--set", value]);
        let options: Vec<_> =
            ["--install"].into_iter().chain(options.iter().copied()).chain(settings).collect();
        self.upgrade_to(&chart()?, &options)
    }

    /// Upgrades it to a chart, and waits until its pods are ready.
    pub fn upgrade_to(&self, chart: &str, options: &[&str]) -> Outcome {
        self.helm(&["upgrade", self.name, chart, "--wait", "--timeout", "120s"], options).map(drop)
    }

    /// Everything that the chart says with these options.
    pub fn template(&self, options: &[&str]) -> Outcome<String> {
        // A helm that was built from its module would render for a far older Kubernetes.
        self.helm(&["template", self.name, &chart()?, "--kube-version", "1.29.0"], options)
    }

    /// The objects of these templates, with these values.
    pub fn render(&self, values: &[String], templates: &[&str]) -> Outcome<Vec<Value>> {
        let templates = templates.iter().flat_map(|template| ["--show-only", template]);
        let values = values.iter().flat_map(|value| ["--set", value]);
        let yaml = self.template(&templates.chain(values).collect::<Vec<_>>())?;
        serde_saphyr::from_multiple(&yaml)
            .map_err(|error| Failure(format!("what helm renders is not YAML: {error}")))
    }

    /// Goes back to the revision before, and waits until its pods are ready.
    pub fn roll_back(&self) -> Outcome {
        self.helm(&["rollback", self.name, "--wait", "--timeout", "120s"], &[]).map(drop)
    }

    /// Runs the chart's own tests.
    pub fn test(&self) -> Outcome {
        self.helm(&["test", self.name, "--timeout", "120s"], &[]).map(drop)
    }

    /// Uninstalls it, and waits until its objects are gone.
    pub fn uninstall(&self) -> Outcome {
        self.helm(&["uninstall", self.name, "--wait", "--timeout", "120s", "--ignore-not-found"], &[])
            .map(drop)
    }

    fn helm(&self, command: &[&str], options: &[&str]) -> Outcome<String> {
        command::run("helm", &[command, &["--namespace", self.namespace], options].concat(), None)
    }
}

/// The chart of this tree.
pub fn chart() -> Outcome<String> {
    let path = tree::path("charts/presenceroute");
    let path = path.canonicalize().map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    Ok(path.display().to_string())
}
