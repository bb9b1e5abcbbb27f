//! The operator is replaced, and the routes do not notice.

use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::simulator::ensure_all_accepted;
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{ensure, ensure_same};
use serde_json::json;

use crate::manifests;
use crate::stage::{RELEASE, Stage};

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "upgrade");
    let name = route.registration_name();
    let (topic, second) = (stage.topic("upgrade"), stage.topic("upgrade-second"));
    let mut manifest = manifests::small_route(stage, &route, "upgrade-webhook", &topic);
    let before = steps.prove("a route is Ready", || {
        stage.kafka.create_topics(&[&topic, &second])?;
        kubectl::apply(&manifests::secret(stage, "upgrade-webhook", json!({"secret": "upgrade"})))?;
        kubectl::apply(&manifest.to_string())?;
        route.becomes_ready(60)?;
        Ok((stage.simulator.registration(&name)?, route.pods()?))
    })?;
    steps.prove("helm upgrade replaces both operators, and no event fails", || {
        let operators = || kubectl::pods(RELEASE.namespace, "app.kubernetes.io/component=operator");
        let old = operators()?;
        let run = stage.simulator.deliver(&name, json!({"ratePerSecond": 30}))?;
        run.flows(30)?;
        let mut values = stage.values();
        // What the pods are made from must be new: an edited log level restarts nothing.
        values.push("operator.podAnnotations.upgraded=yes".into());
        RELEASE.upgrade(&values, &[])?;
        until("the old operators are gone", seconds(60), || {
            let now = operators()?;
            ensure(now.len() == 2 && now.iter().all(|pod| !old.contains(pod)), || format!("{now:?}"))
        })?;
        run.flows(60)?;
        ensure_all_accepted(&run.stop()?)
    })?;
    steps.prove("the registration and the relay pods are the same", || {
        ensure_same("both", &(stage.simulator.registration(&name)?, route.pods()?), &before)
    })?;
    steps.prove("helm rollback restores the operator, and no event fails", || {
        let run = stage.simulator.deliver(&name, json!({"ratePerSecond": 30}))?;
        run.flows(30)?;
        RELEASE.roll_back()?;
        run.flows(60)?;
        ensure_all_accepted(&run.stop()?)
    })?;
    steps.prove("after both, an edit of the route is taken up", || {
        manifest["spec"]["routes"][0]["topic"] = json!(second);
        kubectl::apply(&manifest.to_string())?;
        // The new leader waits for the old one's lease only where that one could not give it back.
        route.becomes_ready(40)?;
        let deliveries = stage.simulator.deliver(&name, json!({"count": 20}))?.finished(seconds(30))?;
        ensure_all_accepted(&deliveries)?;
        ensure_same("records in the new topic", &stage.kafka.records(&second)?.len(), &20)
    })?;
    steps.prove("the route is deleted", || route.delete())
}
