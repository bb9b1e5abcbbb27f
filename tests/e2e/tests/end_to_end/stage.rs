//! Where all of it happens: names of this run's own, and the sweeping before and after.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use presenceroute_e2e::helm::Release;
use presenceroute_e2e::kafka::Kafka;
use presenceroute_e2e::kubectl::{self, text};
use presenceroute_e2e::scratch::{DEFINITION, Scratch};
use presenceroute_e2e::simulator::Simulator;
use presenceroute_e2e::steps::say;
use presenceroute_e2e::{Failure, Outcome, ensure, harness};
use serde_json::Value;

use crate::outage;

/// What this suite makes.
const SCRATCH: Scratch = Scratch("e2e");

/// The beginning of the names of this suite's namespaces and topics.
const PREFIX: &str = "presenceroute-e2e";

/// The release under test.
pub(crate) const RELEASE: Release = Release { name: "presenceroute", namespace: "presenceroute-e2e-system" };

/// How long an old signing secret is accepted after a rotation.
pub(crate) const GRACE_SECONDS: u64 = 5;

/// Where all of it happens.
pub(crate) struct Stage {
    /// Where the routes and the simulator are.
    pub(crate) namespace: String,
    /// The broker.
    pub(crate) kafka: Kafka,
    /// Genesys.
    pub(crate) simulator: Simulator,
    /// What this run's topics begin with.
    topic_prefix: String,
    /// Whether other people's PresenceRoutes are in the cluster.
    shared: bool,
}

impl Stage {
    /// Removes what an earlier run left, and makes namespaces and names for this one.
    pub(crate) fn prepare() -> Outcome<Self> {
        let kafka = Kafka::of_environment()?;
        harness::ensure_cluster()?;
        outage::end_an_earlier_one(&kafka)?;
        sweep(&kafka)?;
        let shared = match kubectl::find("", DEFINITION)? {
            None => false,
            Some(definition) => {
                ensure_not_of_another_release(&definition)?;
                !kubectl::list_everywhere("presenceroutes", "")?.is_empty()
            }
        };
        let run = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(|error| Failure(error.to_string()))?
            .as_secs();
        let namespace = format!("{PREFIX}-{run}");
        SCRATCH.make_namespace(&namespace, &[])?;
        SCRATCH.make_namespace(RELEASE.namespace, &[])?;
        let topic_prefix = format!("{namespace}.");
        Ok(Self { simulator: Simulator::new(&namespace), namespace, kafka, topic_prefix, shared })
    }

    /// The name of one of this run's topics.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// What the chart is installed with.
    pub(crate) fn values(&self) -> Vec<String> {
        let version = env!("CARGO_PKG_VERSION");
        let mut values = vec![
            SCRATCH.chart_value(),
            "operator.replicas=2".into(),
            format!("operator.secretGraceSeconds={GRACE_SECONDS}"),
            "operator.image.repository=presenceroute/operator".into(),
            format!("operator.image.tag={version}"),
            "relay.image.repository=presenceroute/relay".into(),
            format!("relay.image.tag={version}"),
        ];
        if self.shared {
            say(
                "      other PresenceRoutes are in this cluster: the operator serves this run's namespace alone",
            );
            values.push(format!("watchNamespaces={{{}}}", self.namespace));
        }
        values
    }

    /// Shows what a person would look at after a failure.
    pub(crate) fn show(&self) {
        let routes = self.namespace.as_str();
        let component = |name: &str| format!("app.kubernetes.io/component={name}");
        let (operators, relays) = (component("operator"), component("relay"));
        let pages: [&[&str]; 5] = [
            &["-n", routes, "get", "presenceroutes,pods,services", "-o", "wide"],
            &["-n", routes, "describe", "presenceroutes"],
            &["-n", routes, "get", "events", "--sort-by=.lastTimestamp"],
            &["-n", RELEASE.namespace, "logs", "-l", &operators, "--tail=60", "--prefix"],
            &["-n", routes, "logs", "-l", &relays, "--tail=60", "--prefix"],
        ];
        for page in pages {
            say(&format!("      --- kubectl {}", page.join(" ")));
            let shown = kubectl::run(page).unwrap_or_else(|failure| failure.to_string());
            let lines: Vec<_> = shown.lines().collect();
            for line in &lines[lines.len().saturating_sub(120)..] {
                say(&format!("      {line}"));
            }
        }
    }

    /// Removes all that this run made, unless KEEP is set.
    pub(crate) fn clear(&self) {
        if env::var_os("KEEP").is_some() {
            say(&format!(
                "KEEP is set: namespaces {} and {} stay until the next run",
                self.namespace, RELEASE.namespace
            ));
        } else if let Err(failure) = sweep(&self.kafka) {
            say(&format!("not everything could be removed: {failure}"));
        }
    }
}

/// Two releases would fight over the definition, and two operators over the routes.
fn ensure_not_of_another_release(definition: &Value) -> Outcome {
    let annotation =
        |name: &str| text(&definition["metadata"]["annotations"], &format!("/meta.helm.sh~1{name}"));
    let (name, namespace) = (annotation("release-name"), annotation("release-namespace"));
    ensure(name.is_empty() || namespace == RELEASE.namespace, || {
        format!(
            "PresenceRoute is installed in this cluster already, as release {name} in namespace {namespace}; name another cluster by KUBECONFIG, or uninstall that release and its definition"
        )
    })
}

/// Removes what this run or an earlier one made.
fn sweep(kafka: &Kafka) -> Outcome {
    RELEASE.uninstall()?;
    SCRATCH.sweep()?;
    kafka.delete_topics_of(PREFIX)
}
