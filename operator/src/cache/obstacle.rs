//! Why a pod that is there is not ready, as far as its status says: no node takes it, its image cannot be pulled, its
//! container cannot be created or does not stay up.
//!
//! Pure. The text says the same as long as the cause is the same: neither back-offs nor numbers of restarts are in it.
//! What the relay reports of itself is left to [`relay_pods`](crate::relay_pods).

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use serde_json::Value;

use crate::text::one_line;

/// The longest text of an obstacle in bytes: one is kept for each pod that is not ready.
const MAX_MESSAGE: usize = 512;

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The reason of a condition.
    pub reason: &'static str,
    /// The cause, and the remedy where it is not plain.
    pub message: Box<str>,
}

impl Obstacle {
    /// `None` for a pod that has not been in anything's way yet.
    pub fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        if status.phase.as_deref() == Some("Failed") {
            let reason = status.reason.as_deref().unwrap_or("Failed");
            let message = status.message.as_deref().unwrap_or_default();
            return Some(Self::new("PodFailed", &format!("a pod has ended ({reason}): {message}")));
        }
        let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let unschedulable = || {
            let conditions = status.conditions.iter().flatten();
            let mut scheduled = conditions.filter(|it| it.type_ == "PodScheduled" && it.status == "False");
            let message = scheduled.next()?.message.as_deref().unwrap_or_default();
            Some(Self::new("Unschedulable", &format!("no node takes the pod: {message}")))
        };
        containers.filter(|container| !container.ready).find_map(Self::of_container).or_else(unschedulable)
    }

    fn of_container(container: &ContainerStatus) -> Option<Self> {
        let state = container.state.as_ref();
        let waiting = state.and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
        match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                let text = format!("the image {:?} cannot be pulled: {message}", container.image);
                return Some(Self::new("ImagePullFailed", &text));
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                let text = format!("the container {:?} cannot be started: {message}", container.name);
                return Some(Self::new("ContainerNotStarted", &text));
            }
            _ => {}
        }
        let ended = state.and_then(|state| state.terminated.as_ref());
        let ended = ended.or_else(|| container.last_state.as_ref()?.terminated.as_ref())?;
        if ended.reason.as_deref() == Some("OOMKilled") {
            let text = format!(
                "the container {:?} was killed because it used more memory than its limit; raise \
                 spec.relay.resources.limits.memory",
                container.name
            );
            return Some(Self::new("OutOfMemory", &text));
        }
        let text = match last_words(ended) {
            Some(last) => {
                format!("the container {:?} ends with code {}: {last}", container.name, ended.exit_code)
            }
            None => format!("the container {:?} ends with code {}", container.name, ended.exit_code),
        };
        Some(Self::new("CrashLoop", &text))
    }

    fn new(reason: &'static str, message: &str) -> Self {
        Self { reason, message: one_line(message, MAX_MESSAGE).into() }
    }
}

/// The last line that a container has written, without the fields that a log's line has besides its message.
fn last_words(ended: &ContainerStateTerminated) -> Option<String> {
    let line = ended.message.as_deref()?.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    let message = serde_json::from_str::<Value>(line).ok().and_then(|line| {
        let message = line.get("message").or_else(|| line.pointer("/fields/message"));
        let error = line.get("error").or_else(|| line.pointer("/fields/error"));
        let parts: Vec<_> = message.into_iter().chain(error).filter_map(Value::as_str).collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    });
    Some(message.unwrap_or_else(|| line.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn obstacle(status: Value) -> Option<(&'static str, String)> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        Obstacle::of(&pod).map(|it| (it.reason, it.message.into()))
    }

    fn container(state: Value, last_state: Value) -> Value {
        json!({"phase": "Running", "containerStatuses": [{
            "name": "relay", "image": "relay:1", "imageID": "", "ready": false, "restartCount": 3,
            "state": state, "lastState": last_state,
        }]})
    }

    #[test]
    fn each_obstacle_has_its_reason_and_its_cause() {
        let waiting =
            |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
        let ended = |code: i32, reason: &str, message: &str| json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
        let back_off = waiting("CrashLoopBackOff", "back-off 40s restarting failed container");
        let line = r#"{"level":"ERROR","message":"cannot start","error":"no key"}"#;
        let table = [
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}),
                ("Unschedulable", "no node takes the pod: 0/3 nodes"),
            ),
            (
                container(waiting("ErrImagePull", "not found"), json!({})),
                ("ImagePullFailed", "the image \"relay:1\" cannot be pulled: not found"),
            ),
            (
                container(waiting("CreateContainerConfigError", "secret \"x\" not found"), json!({})),
                ("ContainerNotStarted", "the container \"relay\" cannot be started: secret \"x\" not found"),
            ),
            (
                container(back_off.clone(), ended(1, "Error", &format!("first\n{line}\n"))),
                ("CrashLoop", "the container \"relay\" ends with code 1: cannot start: no key"),
            ),
            (
                container(json!({"running": {}}), ended(2, "Error", "")),
                ("CrashLoop", "the container \"relay\" ends with code 2"),
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}),
                ("PodFailed", "a pod has ended (Evicted): the node was low on memory"),
            ),
        ];
        for (status, (reason, message)) in table {
            assert_eq!(obstacle(status), Some((reason, message.to_owned())));
        }
        let (reason, message) = obstacle(container(back_off, ended(137, "OOMKilled", ""))).unwrap();
        assert_eq!(reason, "OutOfMemory");
        assert!(message.contains("spec.relay.resources.limits.memory"), "{message}");
    }

    #[test]
    fn a_pod_that_is_starting_has_no_obstacle() {
        assert_eq!(obstacle(json!({"phase": "Pending"})), None);
        assert_eq!(obstacle(container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}))), None);
        assert_eq!(obstacle(container(json!({"running": {}}), json!({}))), None);
    }

    #[test]
    fn the_text_of_an_obstacle_is_one_bounded_line() {
        let message = "\u{1b}[31mé\n".repeat(1000);
        let status = container(json!({"waiting": {"reason": "ErrImagePull", "message": message}}), json!({}));
        let (_, text) = obstacle(status).unwrap();
        assert!(text.len() <= MAX_MESSAGE && !text.chars().any(char::is_control), "{text:?}");
    }
}
