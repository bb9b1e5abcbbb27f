//! A PresenceRoute in the cluster, and what is made for it.

use presenceroute_core::relay_status::RelayStatus;
use presenceroute_crds::PresenceRouteStatus;
use serde_json::Value;

use crate::kubectl::{self, PodIdentity, Proxy, Watch};
use crate::wait::{seconds, until};
use crate::{Failure, Outcome, ensure};

/// What the operator makes for a route.
pub const CHILDREN: &str =
    "deployments,replicasets,pods,services,serviceaccounts,poddisruptionbudgets,configmaps,secrets";

/// A PresenceRoute, by its name.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Route {
    /// The route of this name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// What it is called at Genesys, unless the manifest says otherwise.
    pub fn registration_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// KIND/NAME.
    pub fn object(&self) -> String {
        format!("presenceroute/{}", self.name)
    }

    /// The labels of everything that is made for it.
    pub fn labels(&self) -> String {
        format!("presenceroute.io/route={}", self.name)
    }

    /// Its status.
    pub fn status(&self) -> Outcome<PresenceRouteStatus> {
        status_of(&kubectl::get(&self.namespace, &self.object())?)
    }

    /// Follows it.
    pub fn watch(&self) -> Outcome<Watch> {
        Watch::start(&self.namespace, &self.object())
    }

    /// Waits until it is ready as it is written now.
    pub fn becomes_ready(&self, patience: u64) -> Outcome<PresenceRouteStatus> {
        until(&format!("{} is ready", self.object()), seconds(patience), || {
            let object = kubectl::get(&self.namespace, &self.object())?;
            let status = status_of(&object)?;
            ensure(holds(&object, "Ready"), || conditions(&status))?;
            Ok(status)
        })
    }

    /// The relay pods.
    pub fn pods(&self) -> Outcome<Vec<PodIdentity>> {
        kubectl::pods(&self.namespace, &format!("{},app.kubernetes.io/component=relay", self.labels()))
    }

    /// What each relay pod says of itself.
    pub fn relays(&self) -> Outcome<Vec<RelayStatus>> {
        self.pods()?.iter().map(|pod| Proxy::pod(&self.namespace, &pod.name, 9090).get("/status")).collect()
    }

    /// What is there of all that was made for it.
    pub fn children(&self) -> Outcome<Vec<String>> {
        Ok(kubectl::list(&self.namespace, CHILDREN, &self.labels())?.iter().map(kubectl::name_of).collect())
    }

    /// Deletes it, and waits until it is gone.
    pub fn delete(&self) -> Outcome {
        kubectl::delete(&self.namespace, &self.object())?;
        until(&format!("{} is gone", self.object()), seconds(60), || {
            match kubectl::find(&self.namespace, &self.object())? {
                None => Ok(()),
                Some(left) => Err(Failure(format!("it is still there: {}", left["status"]))),
            }
        })
    }
}

/// The status of a PresenceRoute.
pub fn status_of(object: &Value) -> Outcome<PresenceRouteStatus> {
    match object.get("status") {
        None => Ok(PresenceRouteStatus::default()),
        Some(status) => serde_json::from_value(status.clone())
            .map_err(|error| Failure(format!("the status cannot be read: {error}: {status}"))),
    }
}

/// Whether a condition is true of the newest generation.
pub fn holds(object: &Value, condition: &str) -> bool {
    let generation = &object["metadata"]["generation"];
    object["status"]["conditions"].as_array().into_iter().flatten().any(|found| {
        found["type"] == condition && found["status"] == "True" && &found["observedGeneration"] == generation
    })
}

/// The message of a condition that is not true.
pub fn failing(status: &PresenceRouteStatus, condition: &str) -> Outcome<String> {
    status
        .conditions
        .iter()
        .find(|found| found.type_ == condition && found.status == "False")
        .map(|found| found.message.clone())
        .ok_or_else(|| Failure(format!("{condition} is not False: {}", conditions(status))))
}

/// All conditions in one line.
pub fn conditions(status: &PresenceRouteStatus) -> String {
    let lines = status
        .conditions
        .iter()
        .map(|found| format!("{}={} ({}: {})", found.type_, found.status, found.reason, found.message));
    lines.collect::<Vec<_>>().join("; ")
}
