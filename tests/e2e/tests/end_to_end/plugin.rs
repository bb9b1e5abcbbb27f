//! `kubectl presenceroute` on a route that is live: what it shows is so, and what it sends arrives.

use presenceroute_e2e::kubectl;
use presenceroute_e2e::plugin::Plugin;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::{Failure, Outcome, ensure, ensure_same};
use serde_json::{Value, json};

use crate::manifests::{self, EVENT_TYPES};
use crate::stage::Stage;

const SECRET: &str = "a-secret-that-is-never-shown";

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "looked-into");
    let topic = stage.topic("sent-by-plugin");
    let plugin = steps.prove("kubectl finds its plugin", Plugin::built)?;
    let presenceroute = |arguments: &[&str]| {
        let here = ["-n", route.namespace.as_str()];
        let ran = plugin.run(&[&["presenceroute"], arguments, &here[..]].concat())?;
        let printed = format!("{}{}", ran.output, ran.complaint);
        ensure(!printed.contains(SECRET), || "the signing secret is in what it prints".into())?;
        ensure(!printed.contains('\x1b'), || format!("colours without a terminal: {printed}"))?;
        Ok::<_, Failure>(ran)
    };
    let answer = |arguments: &[&str]| -> Outcome<Value> {
        let text = presenceroute(&[arguments, &["-o", "json"]].concat())?.well()?;
        serde_json::from_str(&text).map_err(|error| Failure(format!("{error}: {text}")))
    };

    let manifest = steps.prove("a route for it becomes Ready", || {
        stage.kafka.create_topics(&[&topic])?;
        kubectl::apply(&manifests::secret(stage, "looked-into-webhook", json!({"secret": SECRET})))?;
        let manifest = manifests::small_route(stage, &route, "looked-into-webhook", &topic).to_string();
        kubectl::apply(&manifest)?;
        route.becomes_ready(90)?;
        Ok(manifest)
    })?;
    steps.prove("validate accepts the manifest, and names a mistake's place", || {
        let file = plugin.file("right.yaml", &manifest)?;
        presenceroute(&["validate", "-f", &file])?.well()?;
        let file = plugin.file("wrong.yaml", &manifest.replace(&topic, "no topic"))?;
        let refused = presenceroute(&["validate", "-f", &file])?;
        let told = format!("{file}:1:");
        ensure(!refused.succeeded && refused.output.contains(&told), || refused.output.clone())?;
        ensure(refused.output.contains("spec.routes[0].topic"), || refused.output.clone())
    })?;
    let sent = steps.prove("send posts events by port-forward and prints receipts", || {
        let arguments = ["send", &route.name, "--event-type", EVENT_TYPES[0], "--count", "3"];
        let more = ["--attribute", "user.id=7", "--port-forward"];
        let answer = answer(&[&arguments[..], &more].concat())?;
        answer["sent"].as_array().cloned().ok_or_else(|| Failure(answer.to_string()))
    })?;
    steps.prove("each event is at the partition and offset of its receipt", || {
        let records = stage.kafka.records(&topic)?;
        ensure_same("records", &records.len(), &3)?;
        for event in &sent {
            let place = &event["records"][0];
            ensure_same("the topic", &place["topic"], &json!(topic))?;
            let found = records.iter().find(|record| {
                json!(record.partition) == place["partition"] && json!(record.offset) == place["offset"]
            });
            let found = found.ok_or_else(|| Failure(format!("no record at {place}")))?;
            ensure_same("the id", &json!(found.headers.get("ce_id")), &event["id"])?;
        }
        Ok(())
    })?;
    steps.prove("status shows conditions, pods, and events by topic", || {
        let seen = answer(&["status", &route.name, "--rates", "0.5"])?;
        let revision = &seen["status"]["routing"]["revision"];
        let pods = seen["pods"].as_array().cloned().unwrap_or_default();
        ensure(
            pods.len() == 2 && pods.iter().all(|pod| &pod["report"]["routing"]["revision"] == revision),
            || seen["pods"].to_string(),
        )?;
        ensure_same("the topic", &seen["topics"][0]["name"], &json!(topic))?;
        ensure_same("its events", &seen["topics"][0]["published"], &json!(3.0))?;
        let tree = presenceroute(&["status", &route.name, "--rates", "0"])?.well()?;
        ensure(tree.contains("✓ Registered") && tree.contains("2 of 2 ready"), || tree.clone())
    })?;
    steps.prove("status without a name lists all routes", || {
        let listed = answer(&["status"])?;
        let lines = listed.as_array().cloned().unwrap_or_default();
        let line = lines.iter().find(|line| line["name"] == route.name.as_str());
        ensure(line.is_some_and(|line| line["ready"] == "True" && line["pods"] == "2/2"), || {
            listed.to_string()
        })?;
        let table = plugin.run(&["presenceroute", "status", "-A"])?.well()?;
        ensure(table.starts_with("NAMESPACE") && table.contains(&route.name), || table.clone())
    })?;
    steps.prove("routes explains where an event would go, as the relays do it", || {
        let event = json!({"id": "e-1", "eventType": EVENT_TYPES[0]}).to_string();
        let file = plugin.file("event.json", &event)?;
        let explained = answer(&["routes", &route.name, "--explain", &file])?;
        ensure_same("the topics", &explained["outcome"]["topics"], &json!([topic]))?;
        let file = plugin.file("other.json", &event.replace(EVENT_TYPES[0], "other"))?;
        let explained = answer(&["routes", &route.name, "--explain", &file])?;
        ensure_same("the answer to another type", &explained["outcome"]["status"], &json!(404))
    })?;
    steps.prove("a route that does not exist is named by every command", || {
        ["status", "send", "routes"].iter().try_for_each(|command| {
            let event_type: &[&str] =
                if *command == "send" { &["--event-type", EVENT_TYPES[0]] } else { &[] };
            let refused = presenceroute(&[&[*command, "nobody"], event_type].concat())?;
            let named = refused.complaint.contains(r#"there is no PresenceRoute "nobody" in namespace"#);
            ensure(!refused.succeeded && named, || refused.complaint.clone())
        })
    })?;
    steps.prove("kubectl completes its commands, and the names of routes", || {
        let completed = |words: &[&str]| {
            // kubectl asks no plugin where a flag comes before its name.
            plugin.run(&[&["__complete", "presenceroute"], words].concat())?.well()
        };
        let names = completed(&["status", "-n", &route.namespace, "looked"])?;
        ensure(names.lines().any(|line| line == route.name), || names.clone())?;
        let commands = completed(&["st"])?;
        ensure(commands.starts_with("status"), || commands.clone())
    })?;
    steps.prove("the route is deleted", || route.delete())
}
