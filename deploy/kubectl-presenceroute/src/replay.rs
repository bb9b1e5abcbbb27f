//! `replay`: dead letters are sent again through the route.
//!
//! Kafka is reachable from the cluster, and its credentials are in the route's namespace, so the work is a Job's, whose
//! output is shown here. The Job is removed in any case; the progress is in Kafka.

mod job;

use std::process::ExitCode;
use std::time::Duration;

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use presenceroute_manifest::build::relay_name;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, ClusterError};
use crate::route_name::RouteName;
use crate::style::{self, Progress};

/// How long the pod may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long its end may take to show after its output has ended.
const END_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(500);
/// The most output that is shown, in bytes, and the longest line of it, in characters.
const MAX_OUTPUT: i64 = 1 << 20;
const MAX_LINE: usize = 2000;

/// What to send again.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArguments {
    #[command(flatten)]
    route: RouteName,
    /// The topic with the dead letters.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// Only events for which this CEL expression is true, such as 'attributes.presence == "AVAILABLE"'.
    #[arg(long = "where", value_name = "CEL")]
    condition: Option<String>,
    /// Say where the events would go, and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Begin with the oldest record, also of what was sent again before.
    #[arg(long)]
    from_beginning: bool,
}

/// Why a replay could not be run, or seen to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("Deployment {0:?} has no relay; see the route's status")]
    NoRelay(String),
    #[error(
        "Job {0:?} exists: a replay of this route is running, or one was interrupted; wait for it, or delete the Job"
    )]
    Running(String),
    #[error("Job {name:?} cannot be created: {cause}")]
    Create { name: String, cause: kube::Error },
    #[error("the pod of Job {name:?} does not start within {} s: {why}", START_TIMEOUT.as_secs())]
    NotStarted { name: String, why: String },
    #[error("the pod of Job {name:?} cannot be read: {cause}")]
    Read { name: String, cause: kube::Error },
    #[error("the output of Job {name:?} cannot be read: {cause}")]
    Output { name: String, cause: String },
}

/// Runs the Job, shows its output, removes it, and gives its exit code.
pub(crate) async fn run(arguments: &ReplayArguments, cluster: &Cluster) -> Result<ExitCode, ReplayError> {
    let route = cluster.route(&arguments.route.name).await?;
    let deployment_name = relay_name(&arguments.route.name);
    let deployment: Deployment =
        cluster.get(&format!("Deployment {deployment_name:?}"), &deployment_name).await?;
    let job = job::job(&route, &deployment, arguments).ok_or(ReplayError::NoRelay(deployment_name))?;
    let name = job::name(&arguments.route.name);
    let jobs: Api<Job> = cluster.api();
    match jobs.create(&PostParams::default(), &job).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => return Err(ReplayError::Running(name)),
        Err(cause) => return Err(ReplayError::Create { name, cause }),
    }
    let followed = tokio::select! {
        followed = follow(&name, cluster) => followed,
        _ = tokio::signal::ctrl_c() => {
            style::print_error("interrupted; what was sent is stored, so the next replay goes on from there");
            Ok(ExitCode::FAILURE)
        }
    };
    // Its pod goes with it: a relay that is asked to stop stores its progress first.
    if let Err(error) = jobs.delete(&name, &DeleteParams::background()).await {
        style::print_error(&format!(
            "Job {name:?} cannot be deleted: {error}; delete it before the next replay"
        ));
    }
    followed
}

async fn follow(name: &str, cluster: &Cluster) -> Result<ExitCode, ReplayError> {
    let pods: Api<Pod> = cluster.api();
    let pod = started(name, &pods).await?;
    let parameters = LogParams { follow: true, limit_bytes: Some(MAX_OUTPUT), ..LogParams::default() };
    let unreadable = |cause: String| ReplayError::Output { name: name.to_owned(), cause };
    let output = pods.log_stream(&pod, &parameters).await.map_err(|error| unreadable(error.to_string()))?;
    let mut lines = output.lines();
    let mut shown = 0;
    while let Some(line) = lines.try_next().await.map_err(|error| unreadable(error.to_string()))? {
        shown += line.len() + 1;
        style::print(&(printable(&line) + "\n"));
    }
    if i64::try_from(shown).is_ok_and(|shown| shown >= MAX_OUTPUT) {
        style::print_error("the output is too long to be shown; the replay goes on");
    }
    ended(name, &pod, &pods).await
}

/// Waits for the Job's pod to run, or to have run, and gives its name.
async fn started(name: &str, pods: &Api<Pod>) -> Result<String, ReplayError> {
    let progress = Progress::new();
    let begun = Instant::now();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    loop {
        let found = pods.list(&of_job).await;
        let found = found.map_err(|cause| ReplayError::Read { name: name.to_owned(), cause })?;
        let why = match found.items.first() {
            None => format!("it is not created; see kubectl describe job {name}"),
            Some(pod) if has_run(pod) => return Ok(pod.metadata.name.clone().unwrap_or_default()),
            Some(pod) => waits_for(pod),
        };
        if begun.elapsed() > START_TIMEOUT {
            return Err(ReplayError::NotStarted { name: name.to_owned(), why });
        }
        progress.show(&format!("waiting for the pod of Job {name}: {why}"));
        sleep(POLL).await;
    }
}

/// Waits for the pod's end. The exit code is the container's, as far as it says success or failure.
async fn ended(name: &str, pod: &str, pods: &Api<Pod>) -> Result<ExitCode, ReplayError> {
    let mut begun = Instant::now();
    loop {
        let found = pods.get(pod).await;
        let found = found.map_err(|cause| ReplayError::Read { name: name.to_owned(), cause })?;
        match phase(&found) {
            "Succeeded" => return Ok(ExitCode::SUCCESS),
            "Failed" => return Ok(ExitCode::FAILURE),
            // Output that was too long ends before the pod does.
            "Running" => begun = Instant::now(),
            _ if begun.elapsed() > END_TIMEOUT => return Ok(ExitCode::FAILURE),
            _ => {}
        }
        sleep(POLL).await;
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn has_run(pod: &Pod) -> bool {
    matches!(phase(pod), "Running" | "Succeeded" | "Failed")
}

/// What keeps a pod from running, as far as it says.
fn waits_for(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let mut containers = status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.find_map(|container| container.state.as_ref()?.waiting.as_ref());
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let unscheduled =
        conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let (reason, message) = match (waiting, unscheduled) {
        (Some(waiting), _) => (&waiting.reason, &waiting.message),
        (None, Some(condition)) => (&condition.reason, &condition.message),
        (None, None) => return "it is pending".into(),
    };
    let words: Vec<_> = [reason, message].into_iter().flatten().map(|words| printable(words)).collect();
    words.join(": ")
}

/// A line without what a terminal would take for a command, and not too long.
fn printable(line: &str) -> String {
    line.chars().take(MAX_LINE).map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn a_pod_that_does_not_start_says_why() {
        for (status, why) in [
            (json!({}), "it is pending"),
            (
                json!({"phase": "Pending", "containerStatuses": [{
                    "name": "replay", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off\u{1b}[31m pulling"}},
                }]}),
                "ImagePullBackOff: Back-off [31m pulling",
            ),
            (
                json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"},
                ]}),
                "Unschedulable: 0/3 nodes",
            ),
        ] {
            let pod = pod(status);
            assert!(!has_run(&pod));
            assert_eq!(waits_for(&pod), why);
        }
        assert!(has_run(&pod(json!({"phase": "Succeeded"}))));
    }

    #[test]
    fn a_line_of_the_pod_cannot_control_the_terminal() {
        assert_eq!(printable("a\u{1b}]0;title\u{7}b\r"), "a ]0;title b ");
        assert_eq!(printable(&"x".repeat(MAX_LINE + 1)).len(), MAX_LINE);
    }
}
