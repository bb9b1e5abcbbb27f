//! A replica of the operator, as a process of this machine with the ServiceAccount of the chart.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use presenceroute_e2e::steps::say;
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Failure, Outcome, command, ensure, kubectl};

use crate::scene::{NAMESPACE, kubeconfig};

/// One replica; it ends when this is dropped.
pub(crate) struct Operator {
    name: &'static str,
    address: &'static str,
    process: Child,
}

impl Operator {
    /// Starts it at an address of its own.
    pub(crate) fn start(name: &'static str, address: &'static str) -> Outcome<Self> {
        let failed = |error: std::io::Error| Failure(format!("the operator does not start: {error}"));
        let log = File::create(log(name)).map_err(failed)?;
        let process = command::new(command::built("presenceroute-operator")?)
            .args(["run", "--listen", &format!("{address}:8080"), "--watch-namespaces", NAMESPACE])
            .args(["--pod-namespace", NAMESPACE, "--pod-name", name])
            .args(["--policy-file", concat!(env!("CARGO_MANIFEST_DIR"), "/../../operator/tests/policy.yaml")])
            .env("KUBECONFIG", kubeconfig()?)
            .env("PRESENCEROUTE_LOG_LEVEL", "info,presenceroute_operator=debug")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name, address, process })
    }

    /// Waits until it holds the Lease.
    pub(crate) fn leads(&self) -> Outcome {
        until(&format!("{} leads", self.name), seconds(30), || {
            let lease = kubectl::get(NAMESPACE, "lease/presenceroute-operator")?;
            let holder = kubectl::text(&lease, "/spec/holderIdentity");
            ensure(holder.starts_with(&format!("{}_", self.name)), || format!("{holder:?} holds the Lease"))
        })
    }

    /// Waits until it is ready, whether or not it leads.
    pub(crate) fn is_ready(&self) -> Outcome {
        let url = format!("http://{}:8080/readyz", self.address);
        until(&format!("{} is ready", self.name), seconds(30), || {
            command::run("curl", &["--silent", "--show-error", "--fail", &url], None).map(drop)
        })
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        command::stop(&mut self.process);
    }
}

/// Shows all that a replica has logged.
pub(crate) fn show_log(name: &str) {
    for line in std::fs::read_to_string(log(name)).unwrap_or_default().lines() {
        say(&format!("      {name}: {line}"));
    }
}

fn log(name: &str) -> PathBuf {
    command::own_directory().join(format!("{name}.log"))
}
