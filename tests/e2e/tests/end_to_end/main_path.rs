//! The way of an event from Genesys to Kafka, and the life of a route: made, edited, its secret rotated, deleted.

use std::time::{Duration, Instant};

use presenceroute_crds::status::SigningPhase;
use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::{Route, holds, status_of};
use presenceroute_e2e::simulator::{Delivery, ensure_all_accepted};
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Failure, Outcome, ensure, ensure_same};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::deliveries::{Key, by_event, ensure_exactly_once};
use crate::manifests::{self, EVENT_TYPES};
use crate::stage::{GRACE_SECONDS, Stage};

const REPLICAS: usize = 2;
const OLD_SECRET: &str = "demo-webhook-secret-not-for-production";
const NEW_SECRET: &str = "the-secret-after-the-rotation";

/// A routing change is live on every pod within this time.
const LIVE_WITHIN: Duration = seconds(2);

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "contact-centre");
    let name = route.registration_name();
    let simulator = &stage.simulator;
    let topics = ["gen-presence-state", "gen-presence-status", "gen-presence-location"]
        .map(|topic| stage.topic(topic));
    let topic_of: Vec<_> = EVENT_TYPES.into_iter().zip(&topics).collect();
    let states = stage.topic("states-by-user");

    let manifest = steps.prove("the quickstart's manifest becomes Ready", || {
        let names: Vec<_> = topics.iter().chain([&states]).map(String::as_str).collect();
        stage.kafka.create_topics(&names)?;
        let manifest = manifests::example(stage, "quickstart.yaml")?;
        let began = Instant::now();
        kubectl::apply(&manifest)?;
        route.becomes_ready(90)?;
        measured(&format!("Ready {:.1} s after kubectl apply", began.elapsed().as_secs_f64()));
        Ok(manifest)
    })?;
    steps.prove("kubectl get shows it Ready, with its routes and ready pods", || {
        // It is ready with the first of its two pods.
        until("both pods are ready", seconds(30), || {
            let table = kubectl::run(&["-n", &route.namespace, "get", "presenceroutes"])?;
            let row = table.lines().nth(1).unwrap_or_default();
            let columns: Vec<_> = row.split_whitespace().take(5).collect();
            ensure(columns == [route.name.as_str(), "True", "Ready", "3", "2/2"], || table.clone())
        })
    })?;
    let registration = steps.prove("it is registered exactly once, for the types of its routes", || {
        let registration = simulator.registration(&name)?;
        let status = route
            .status()?
            .source
            .and_then(|source| source.registration)
            .ok_or_else(|| Failure("the status has no registration".into()))?;
        let mut event_types = registration.event_types.clone();
        event_types.sort();
        let mut expected = EVENT_TYPES.map(str::to_owned).to_vec();
        expected.sort();
        ensure_same("the event types", &event_types, &expected)?;
        ensure_same("the id in the status", &status.id.as_deref(), &Some(registration.id.as_str()))?;
        ensure_same("the URL", &registration.url, &status.spec.url)?;
        ensure_same(
            "what events are signed with",
            &registration.secret_fingerprint,
            &fingerprint(OLD_SECRET),
        )?;
        ensure(registration.enabled, || "it is disabled".into())?;
        Ok(registration)
    })?;

    let first = steps.prove("300 signed events are accepted at the first try", || {
        let run = simulator.deliver(&name, json!({"count": 300, "eventTypes": EVENT_TYPES}))?;
        let deliveries = run.finished(seconds(60))?;
        ensure_same("events", &deliveries.len(), &300)?;
        ensure_all_accepted(&deliveries)?;
        Ok(deliveries)
    })?;
    steps.prove("each is in its topic once: key, bytes, CloudEvents headers", || {
        for (event_type, topic) in &topic_of {
            let of_type = || first.iter().filter(|delivery| delivery.event_type == *event_type);
            ensure_exactly_once(stage, topic, of_type(), Key::UserId)?;
            ensure_same(
                &format!("records in {topic}"),
                &stage.kafka.records(topic)?.len(),
                &of_type().count(),
            )?;
        }
        Ok(())
    })?;

    let pods = steps.prove("two relay pods serve it, none of them restarted", || {
        let pods = route.pods()?;
        ensure(pods.len() == REPLICAS && pods.iter().all(|pod| pod.restarts == 0), || format!("{pods:?}"))?;
        Ok(pods)
    })?;

    let flow = steps.prove("events flow, 100 a second", || {
        let run = simulator.deliver(&name, json!({"ratePerSecond": 100, "eventTypes": EVENT_TYPES}))?;
        run.flows(100)?;
        Ok(run)
    })?;
    let edited = manifest.replace(
        "  routes:\n",
        &format!("  routes:\n    - {{eventType: \"{}\", topic: {states}, key: id}}\n", EVENT_TYPES[0]),
    );
    steps.prove("an added route is live on every pod in under 2 s", || {
        add_route(stage, &route, &edited, &states)
    })?;
    let flowed = steps.prove("no event failed meanwhile; each is in its topic once", || {
        flow.flows(200)?;
        let deliveries = flow.stop()?;
        ensure_all_accepted(&deliveries)?;
        for (event_type, topic) in &topic_of {
            let of_type = deliveries.iter().filter(|delivery| delivery.event_type == *event_type);
            ensure_exactly_once(stage, topic, of_type, Key::UserId)?;
        }
        measured(&format!("{} events", deliveries.len()));
        Ok(deliveries)
    })?;
    steps.prove("the new topic has each later event once, by the new key", || {
        let run = simulator.deliver(&name, json!({"count": 60, "eventTypes": EVENT_TYPES}))?;
        let later = run.finished(seconds(30))?;
        let is_state = |delivery: &&Delivery| delivery.event_type == EVENT_TYPES[0];
        ensure_exactly_once(stage, &states, later.iter().filter(is_state), Key::Id)?;
        let found = by_event(stage, &states)?;
        let meanwhile = flowed.iter().filter(is_state).filter(|delivery| found.contains_key(&delivery.id));
        let meanwhile: Vec<_> = meanwhile.collect();
        ensure_exactly_once(stage, &states, meanwhile.iter().copied(), Key::Id)?;
        ensure_same("events in it", &found.len(), &(meanwhile.len() + later.iter().filter(is_state).count()))
    })?;
    steps.prove("a removed route is gone from every pod in under 2 s", || {
        let before = stage.kafka.records(&states)?.len();
        edit(&route, &manifest)?;
        let run = simulator.deliver(&name, json!({"count": 30, "eventTypes": EVENT_TYPES}))?;
        ensure_all_accepted(&run.finished(seconds(30))?)?;
        ensure_same("records in it", &stage.kafka.records(&states)?.len(), &before)
    })?;
    steps.prove("an edited log level is live on every pod within seconds", || {
        let levels = |level: &str| -> Outcome {
            let edit = json!({"spec": {"relay": {"logLevel": level}}});
            let began = Instant::now();
            kubectl::run(&[
                "-n",
                &route.namespace,
                "patch",
                &route.object(),
                "--type=merge",
                "-p",
                &edit.to_string(),
            ])?;
            until(&format!("every relay logs at {level}"), seconds(15), || {
                let relays = route.relays()?;
                let at_level = relays.iter().filter(|relay| relay.log_level.as_deref() == Some(level));
                ensure_same("relays", &at_level.count(), &REPLICAS)
            })?;
            measured(&format!("{level} {:.1} s after kubectl patch began", began.elapsed().as_secs_f64()));
            Ok(())
        };
        levels("debug")?;
        levels("info")
    })?;
    steps
        .prove("no relay pod was restarted or replaced", || ensure_same("the pods", &route.pods()?, &pods))?;

    steps.prove("a rotation of the webhook secret refuses no event", || {
        let run = simulator.deliver(&name, json!({"ratePerSecond": 50, "eventTypes": EVENT_TYPES}))?;
        run.flows(50)?;
        let began = Instant::now();
        kubectl::apply(&manifests::secret(stage, "genesys-webhook", json!({"secret": NEW_SECRET})))?;
        until("Genesys signs with the new secret", seconds(30), || {
            let now = simulator.registration(&name)?;
            ensure_same("the fingerprint", &now.secret_fingerprint, &fingerprint(NEW_SECRET))
        })?;
        measured(&format!(
            "Genesys signs with it {:.1} s after kubectl apply",
            began.elapsed().as_secs_f64()
        ));
        run.flows(100)?;
        ensure_all_accepted(&run.stop()?)
    })?;
    steps.prove("after the grace period only the new secret is accepted", || {
        until("the rotation is over", seconds(GRACE_SECONDS + 30), || {
            let status = route.status()?;
            let signing = status.signing.ok_or_else(|| Failure("the status has no signing".into()))?;
            ensure_same("the phase", &signing.phase, &SigningPhase::Stable)?;
            let relays = route.relays()?;
            ensure(relays.iter().all(|relay| relay.secrets.active == 1), || format!("{relays:?}"))
        })?;
        let old = json!({"count": 3, "eventTypes": EVENT_TYPES, "signWith": {"secret": OLD_SECRET}});
        let refused = simulator.deliver(&name, old)?.finished(seconds(30))?;
        let statuses: Vec<_> =
            refused.iter().flat_map(|delivery| &delivery.attempts).map(|attempt| attempt.status).collect();
        ensure_same("the answers to the old secret", &statuses, &vec![Some(403); 3])?;
        let accepted = simulator.deliver(&name, json!({"count": 30, "eventTypes": EVENT_TYPES}))?;
        ensure_all_accepted(&accepted.finished(seconds(30))?)
    })?;
    steps.prove("it is still the one registration, the same pods, and Ready", || {
        ensure_same("the id", &simulator.registration(&name)?.id, &registration.id)?;
        ensure_same("the pods", &route.pods()?, &pods)?;
        route.becomes_ready(10).map(drop)
    })?;

    steps.prove("deletion leaves no registration at Genesys Cloud", || {
        route.delete()?;
        ensure_same("registrations", &simulator.registrations(&name)?, &Vec::new())
    })?;
    steps.prove("deletion leaves no object in the cluster", || {
        until("its children are gone", seconds(90), || {
            ensure_same("what is left", &route.children()?, &Vec::new())
        })
    })
}

/// Applies the manifest, and waits until every pod serves its routes and the first event is in the new topic.
fn add_route(stage: &Stage, route: &Route, manifest: &str, new_topic: &str) -> Outcome {
    let first_record = stage.kafka.first_record(new_topic, seconds(30))?;
    let edited = edit(route, manifest)?;
    let received = first_record.join().map_err(|_| Failure("the consumer failed".into()))??;
    measured(&format!(
        "the first event was in the new topic {} ms after it began",
        millis(edited.began, received)
    ));
    ensure_in_time(&edited, received)
}

/// When an edit was made.
struct Edited {
    /// `kubectl apply` began.
    began: Instant,
    /// It returned.
    applied: Instant,
}

/// Applies the manifest, and waits until every pod serves its routes.
fn edit(route: &Route, manifest: &str) -> Outcome<Edited> {
    let before = route.status()?.routing.ok_or_else(|| Failure("the status has no routing".into()))?;
    let watch = route.watch()?;
    let began = Instant::now();
    kubectl::apply(manifest)?;
    let edited = Edited { began, applied: Instant::now() };
    let (live, object) = watch.until("the new routes are live on every pod", seconds(30), |object| {
        let routing = &object["status"]["routing"];
        holds(object, "RoutingLive")
            && routing["revision"] != before.revision.as_str()
            && routing["liveReplicas"] == REPLICAS
    })?;
    // The operator's word is good; the relays' own is better.
    let revision = status_of(&object)?.routing.map(|routing| routing.revision).unwrap_or_default();
    let relays = route.relays()?;
    ensure(
        relays.len() == REPLICAS && relays.iter().all(|relay| relay.routing.revision == revision),
        || format!("the status says that {revision} is live, the relays say {relays:?}"),
    )?;
    measured(&format!(
        "kubectl apply took {} ms; RoutingLive on all {REPLICAS} pods {} ms after it began, {} ms after it returned",
        millis(began, edited.applied),
        millis(began, live),
        millis(edited.applied, live)
    ));
    ensure_in_time(&edited, live)?;
    Ok(edited)
}

/// The API server has the edit when `kubectl apply` returns, at the latest.
fn ensure_in_time(edited: &Edited, seen: Instant) -> Outcome {
    let took = seen.saturating_duration_since(edited.applied);
    ensure(took < LIVE_WITHIN, || format!("it took {} ms", took.as_millis()))
}

fn millis(start: Instant, end: Instant) -> u128 {
    end.saturating_duration_since(start).as_millis()
}

fn fingerprint(secret: &str) -> String {
    hex::encode(&Sha256::digest(secret)[..4])
}
