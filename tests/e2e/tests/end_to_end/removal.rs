//! The operator is uninstalled, and PresenceRoutes and their relays stay.

use presenceroute_e2e::helm::Release;
use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::scratch::DEFINITION;
use presenceroute_e2e::simulator::ensure_all_accepted;
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::wait::seconds;
use presenceroute_e2e::{ensure, ensure_same};
use serde_json::json;

use crate::manifests;
use crate::stage::{RELEASE, Stage};

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let Release { namespace, .. } = RELEASE;
    let route = Route::new(&stage.namespace, "survivor");
    steps.prove("a route is Ready", || {
        let topic = stage.topic("survivor");
        stage.kafka.create_topics(&[&topic])?;
        kubectl::apply(&manifests::secret(stage, "survivor-webhook", json!({"secret": "survivor"})))?;
        kubectl::apply(&manifests::small_route(stage, &route, "survivor-webhook", &topic).to_string())?;
        route.becomes_ready(60).map(drop)
    })?;
    steps.prove("helm uninstall removes everything but the definition", || {
        RELEASE.uninstall()?;
        let labels = format!("app.kubernetes.io/instance={},app.kubernetes.io/managed-by=Helm", RELEASE.name);
        let kinds = "deployments,services,serviceaccounts,poddisruptionbudgets,roles,rolebindings,configmaps";
        let left = kubectl::list(namespace, kinds, &labels)?;
        let left = [left, kubectl::list("", "clusterroles,clusterrolebindings", &labels)?].concat();
        let left: Vec<_> = left.iter().map(kubectl::name_of).collect();
        ensure_same("what is left", &left, &Vec::new())?;
        kubectl::get("", DEFINITION).map(drop)
    })?;
    steps.prove("the PresenceRoute stays, and its relays carry events", || {
        let object = kubectl::get(&route.namespace, &route.object())?;
        ensure(object["metadata"]["deletionTimestamp"].is_null(), || "it is being deleted".into())?;
        let plan = json!({"count": 20});
        let run = stage.simulator.deliver(&route.registration_name(), plan)?;
        ensure_all_accepted(&run.finished(seconds(30))?)
    })?;
    steps.prove("installed again, the operator serves it and deletes it", || {
        RELEASE.upgrade(&stage.values(), &[])?;
        route.becomes_ready(40)?;
        route.delete()?;
        ensure_same("registrations", &stage.simulator.registrations(&route.registration_name())?, &Vec::new())
    })?;
    steps.prove("uninstalled again, it leaves the definition", || {
        RELEASE.uninstall()?;
        kubectl::get("", DEFINITION).map(drop)
    })
}
