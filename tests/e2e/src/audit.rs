//! What operators have asked the API server for, by its audit log.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use crate::{Failure, Outcome};

/// What Kubernetes calls a right: a verb, a resource with its group, and perhaps a subresource.
pub fn right(verb: &str, resource: &str, group: &str, subresource: &str) -> String {
    let group = if group.is_empty() { String::new() } else { format!(".{group}") };
    let subresource = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
    format!("{verb} {resource}{group}{subresource}")
}

/// A right that an operator has asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The right.
    pub right: String,
    /// The object's name; empty where the request names none.
    pub name: String,
    /// Whether the API server denied it.
    pub is_denied: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    request_received_timestamp: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectRef>,
    #[serde(default)]
    response_status: ResponseStatus,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ObjectRef {
    resource: String,
    api_group: String,
    subresource: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
    message: String,
}

/// The requests of operators since then, in this log and in those that it was rotated to.
pub fn requests(log: &Path, since: Timestamp) -> Outcome<Vec<Request>> {
    let mut requests = Vec::new();
    for file in rotated(log)?.into_iter().chain([log.to_owned()]) {
        let failed = |error: std::io::Error| Failure(format!("{}: {error}", file.display()));
        for line in BufReader::new(File::open(&file).map_err(failed)?).lines() {
            requests.extend(in_line(&line.map_err(failed)?, since));
        }
    }
    Ok(requests)
}

/// `audit.log` is rotated to `audit-TIME.log`.
fn rotated(log: &Path) -> Outcome<Vec<PathBuf>> {
    let folder = log.parent().unwrap_or(Path::new("."));
    let stem = log.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    let entries = fs::read_dir(folder).map_err(|error| Failure(format!("{}: {error}", folder.display())))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths
        .filter(|path| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-') && rest.ends_with(".log"))
        })
        .collect())
}

/// The rights that a line tells of. A line that the API server did not finish before it was killed is left out.
fn in_line(line: &str, since: Timestamp) -> Vec<Request> {
    // Most lines are of others, and reading JSON takes long.
    if !line.contains("-operator\"") {
        return Vec::new();
    }
    let Ok(event) = serde_json::from_str::<Event>(line) else { return Vec::new() };
    let Some(object) = event.object_ref.filter(|object| !object.resource.is_empty()) else {
        return Vec::new();
    };
    let is_operator = event.user.username.starts_with("system:serviceaccount:")
        && event.user.username.ends_with("-operator");
    let is_old = event.request_received_timestamp.parse::<Timestamp>().is_ok_and(|at| at < since);
    if !is_operator || is_old {
        return Vec::new();
    }
    let request = |verb: &str, name: &str, is_denied| Request {
        right: right(verb, &object.resource, &object.api_group, &object.subresource),
        name: name.to_owned(),
        is_denied,
    };
    let ResponseStatus { code, message } = event.response_status;
    if event.annotations.get("authorization.k8s.io/decision").is_some_and(|it| it == "forbid") {
        return vec![request(&event.verb, &object.name, true)];
    }
    // A patch that makes its object takes the right to create it, too, which the API server asks for only after it has
    // let the request in.
    match (event.verb.as_str(), code) {
        (_, 403) if message.contains("cannot create resource") => {
            vec![request("create", &object.name, true)]
        }
        (_, 403) => Vec::new(),
        ("patch", 201) => vec![request("patch", &object.name, false), request("create", "", false)],
        (verb, _) => vec![request(verb, &object.name, false)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verb: &str, code: u16, message: &str, decision: &str) -> String {
        serde_json::json!({
            "requestReceivedTimestamp": "2026-01-31T12:00:00.5Z",
            "verb": verb,
            "user": {"username": "system:serviceaccount:a:presenceroute-operator"},
            "objectRef": {"resource": "deployments", "apiGroup": "apps", "name": "x"},
            "responseStatus": {"code": code, "message": message},
            "annotations": {"authorization.k8s.io/decision": decision},
        })
        .to_string()
    }

    fn requests_in(line: &str) -> Vec<(String, String, bool)> {
        let since = "2026-01-31T12:00:00Z".parse().unwrap();
        in_line(line, since).into_iter().map(|found| (found.right, found.name, found.is_denied)).collect()
    }

    #[test]
    fn a_right_is_written_as_kubernetes_writes_it() {
        assert_eq!(right("get", "secrets", "", ""), "get secrets");
        assert_eq!(right("patch", "a", "b.c", "status"), "patch a.b.c/status");
    }

    #[test]
    fn a_patch_that_makes_its_object_is_a_creation_too() {
        let used = |verb: &str, name: &str| (format!("{verb} deployments.apps"), name.to_owned(), false);
        assert_eq!(requests_in(&line("patch", 201, "", "allow")), [used("patch", "x"), used("create", "")]);
        assert_eq!(requests_in(&line("patch", 200, "", "allow")), [used("patch", "x")]);
    }

    #[test]
    fn only_what_authorization_forbids_is_denied() {
        let denied = |verb: &str| vec![(format!("{verb} deployments.apps"), "x".to_owned(), true)];
        assert_eq!(requests_in(&line("patch", 403, "", "forbid")), denied("patch"));
        let message = "User cannot create resource \"deployments\"";
        assert_eq!(requests_in(&line("patch", 403, message, "allow")), denied("create"));
        assert_eq!(requests_in(&line("patch", 403, "the namespace is terminating", "allow")), []);
    }

    #[test]
    fn other_users_older_requests_and_torn_lines_are_left_out() {
        let whole = line("patch", 200, "", "allow");
        assert_eq!(requests_in(&whole.replace("12:00:00.5Z", "11:59:59.9Z")), []);
        assert_eq!(requests_in(&whole.replace("presenceroute-operator", "presenceroute-operator-not")), []);
        assert_eq!(requests_in(&whole[..whole.len() - 5]), []);
    }
}
