//! The cluster, as `kubectl` shows it and changes it.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::command;
use crate::{Failure, Outcome};

/// Runs `kubectl` with these arguments.
pub fn run(arguments: &[&str]) -> Outcome<String> {
    with_input(arguments, None)
}

fn with_input(arguments: &[&str], input: Option<&str>) -> Outcome<String> {
    command::run("kubectl", arguments, input)
}

/// Applies a manifest as a person does.
pub fn apply(manifest: &str) -> Outcome {
    with_input(&["apply", "-f", "-"], Some(manifest)).map(drop)
}

/// Applies a manifest that is too long for `kubectl apply` to remember.
pub fn apply_on_server(manifest: &str) -> Outcome {
    with_input(&["apply", "--server-side", "-f", "-"], Some(manifest)).map(drop)
}

/// Has the API server look at a manifest, which it must take without any warning, and keeps nothing of it.
pub fn try_out_strictly(manifest: &str) -> Outcome {
    let options = ["--server-side", "--dry-run=server", "--force-conflicts", "--warnings-as-errors"];
    let arguments = [&["apply", "--field-manager=e2e", "-f", "-"], &options[..]].concat();
    with_input(&arguments, Some(manifest)).map(drop)
}

/// Has the API server look at a new object as if that user made it, and keeps nothing of it.
pub fn try_out_as(user: &str, manifest: &str) -> Outcome {
    with_input(&["create", "--dry-run=server", "--as", user, "-f", "-"], Some(manifest)).map(drop)
}

/// Whether a ServiceAccount may do what `kubectl auth can-i` is asked with these arguments.
pub fn may(namespace: &str, account: &str, arguments: &[&str]) -> Outcome<bool> {
    let output = command::new("kubectl")
        .args(["auth", "can-i"])
        .args(arguments)
        .arg(format!("--as=system:serviceaccount:{namespace}:{account}"))
        .output()
        .map_err(|error| Failure(format!("cannot run kubectl: {error}")))?;
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(Failure(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// Has the API server look at a manifest, and keeps nothing of it.
pub fn try_out(manifest: &str) -> Outcome {
    with_input(
        &["apply", "--server-side", "--dry-run=server", "--field-manager=e2e", "-f", "-"],
        Some(manifest),
    )
    .map(drop)
}

/// Merges a patch into an object.
pub fn patch(namespace: &str, object: &str, patch: &Value) -> Outcome {
    run(&["-n", namespace, "patch", object, "--type=merge", "-p", &patch.to_string()]).map(drop)
}

/// Deletes an object, which may be called KIND/NAME, and returns at once.
pub fn delete(namespace: &str, object: &str) -> Outcome {
    run(&["-n", namespace, "delete", object, "--wait=false"]).map(drop)
}

/// One object, called KIND/NAME, if it is there.
pub fn find(namespace: &str, object: &str) -> Outcome<Option<Value>> {
    let found = run(&["-n", namespace, "get", object, "--ignore-not-found", "-o", "json"])?;
    if found.trim().is_empty() { Ok(None) } else { read(object, &found).map(Some) }
}

/// One object, called KIND/NAME, which must be there.
pub fn get(namespace: &str, object: &str) -> Outcome<Value> {
    find(namespace, object)?.ok_or_else(|| Failure(format!("{object} is not in namespace {namespace}")))
}

/// The objects of these kinds (separated by commas) that have these labels.
pub fn list(namespace: &str, kinds: &str, labels: &str) -> Outcome<Vec<Value>> {
    let found = run(&["-n", namespace, "get", kinds, "-l", labels, "-o", "json"])?;
    items(kinds, &found)
}

/// The objects of a kind in all namespaces, or of a kind that is in none.
pub fn list_everywhere(kind: &str, labels: &str) -> Outcome<Vec<Value>> {
    let mut arguments = vec!["get", kind, "--all-namespaces", "-o", "json"];
    if !labels.is_empty() {
        arguments.extend(["-l", labels]);
    }
    items(kind, &run(&arguments)?)
}

fn items(what: &str, json: &str) -> Outcome<Vec<Value>> {
    let list: Value = read(what, json)?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn read<T: DeserializeOwned>(what: &str, json: &str) -> Outcome<T> {
    serde_json::from_str(json).map_err(|error| Failure(format!("{what} cannot be read: {error}\n{json}")))
}

/// The text at a JSON pointer, or nothing.
pub fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// KIND/NAME of an object.
pub fn name_of(object: &Value) -> String {
    format!("{}/{}", text(object, "/kind"), text(object, "/metadata/name"))
}

/// A pod, by what tells that it is still the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodIdentity {
    /// Its name.
    pub name: String,
    /// What no other pod ever has.
    pub uid: String,
    /// How often its containers were started again.
    pub restarts: u64,
}

/// The pods with these labels that are not on their way out, sorted.
pub fn pods(namespace: &str, labels: &str) -> Outcome<Vec<PodIdentity>> {
    let mut pods: Vec<_> = list(namespace, "pods", labels)?
        .iter()
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
        .map(|pod| PodIdentity {
            name: text(pod, "/metadata/name").to_owned(),
            uid: text(pod, "/metadata/uid").to_owned(),
            restarts: pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|container| container["restartCount"].as_u64())
                .sum(),
        })
        .collect();
    pods.sort();
    Ok(pods)
}

/// A program in the cluster, called through the API server's proxy: that works from wherever `kubectl` works.
#[derive(Clone, Debug)]
pub struct Proxy {
    path: String,
}

impl Proxy {
    /// To a Service.
    pub fn service(namespace: &str, service: &str, port: u16) -> Self {
        Self { path: format!("/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy") }
    }

    /// To one pod.
    pub fn pod(namespace: &str, pod: &str, port: u16) -> Self {
        Self { path: format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy") }
    }

    /// GET.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        let path = format!("{}{path}", self.path);
        read(&path, &run(&["get", "--raw", &path])?)
    }

    /// POST with a JSON body.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Outcome<T> {
        let path = format!("{}{path}", self.path);
        read(&path, &with_input(&["create", "--raw", &path, "-f", "-"], Some(&body.to_string()))?)
    }

    /// PUT with a JSON body.
    pub fn put(&self, path: &str, body: &Value) -> Outcome {
        let path = format!("{}{path}", self.path);
        with_input(&["replace", "--raw", &path, "-f", "-"], Some(&body.to_string())).map(drop)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Outcome {
        run(&["delete", "--raw", &format!("{}{path}", self.path)]).map(drop)
    }
}

/// Objects as they change, each time with when it was seen.
pub struct Watch {
    kubectl: Child,
    seen: Receiver<(Instant, Value)>,
}

impl Watch {
    /// Watches KIND/NAME; the first thing that it sees is how it is now.
    pub fn start(namespace: &str, object: &str) -> Outcome<Self> {
        Self::of(namespace, &[object])
    }

    /// Watches the pods with these labels, of which there is one at least.
    pub fn pods(namespace: &str, labels: &str) -> Outcome<Self> {
        Self::of(namespace, &["pods", "-l", labels])
    }

    fn of(namespace: &str, objects: &[&str]) -> Outcome<Self> {
        let mut kubectl = command::new("kubectl")
            .args(["-n", namespace, "get"])
            .args(objects)
            .args(["--watch", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure(format!("cannot run kubectl: {error}")))?;
        let (sender, seen) = channel();
        if let Some(output) = kubectl.stdout.take() {
            thread::spawn(move || {
                for object in
                    serde_json::Deserializer::from_reader(BufReader::new(output)).into_iter::<Value>()
                {
                    let Ok(object) = object else { return };
                    if sender.send((Instant::now(), object)).is_err() {
                        return;
                    }
                }
            });
        }
        let watch = Self { kubectl, seen };
        // So that nothing that happens from now on is missed.
        watch.until("the watch begins", Duration::from_secs(20), |_| true)?;
        Ok(watch)
    }

    /// When the object was first seen to be so, and what it was then.
    pub fn until(
        &self,
        what: &str,
        patience: Duration,
        is_so: impl Fn(&Value) -> bool,
    ) -> Outcome<(Instant, Value)> {
        let deadline = Instant::now() + patience;
        let mut last = Value::Null;
        loop {
            match self.seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((at, object)) if is_so(&object) => return Ok((at, object)),
                Ok((_, object)) => last = object,
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = patience.as_secs();
                    return Err(Failure(format!(
                        "waited {seconds} s until {what}; last seen: {}",
                        last["status"]
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure(format!("kubectl stopped watching before {what}")));
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// Whether a pod's condition is true.
pub fn pod_is(pod: &Value, condition: &str) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|found| found["type"] == condition && found["status"] == "True")
}

/// Labels of an object.
pub fn labels(object: &Value) -> BTreeMap<String, String> {
    BTreeMap::deserialize(&object["metadata"]["labels"]).unwrap_or_default()
}
