//! What Genesys calls is changed under load, and no event is lost: the path, and TLS on and off.

use presenceroute_crds::status::EndpointPhase;
use presenceroute_e2e::command;
use presenceroute_e2e::kubectl;
use presenceroute_e2e::route::Route;
use presenceroute_e2e::simulator::{Delivery, Simulator, ensure_all_accepted};
use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Outcome, ensure, ensure_same};
use serde_json::{Value, json};

use crate::deliveries::{Key, ensure_exactly_once};
use crate::manifests;
use crate::stage::Stage;

/// Events a second.
const RATE: u64 = 100;
/// The simulator of this scenario, which trusts the relays' certificate.
const GENESYS: &str = "genesys-with-ca";
const CERTIFICATE: &str = "changing-tls";

pub(crate) fn story(stage: &Stage, steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let route = Route::new(&stage.namespace, "changing");
    let topic = stage.topic("changing");
    let host = format!("{}-relay.{}", route.name, route.namespace);
    let simulator = Simulator::named(&stage.namespace, GENESYS);
    let mut manifest = manifests::small_route(stage, &route, "changing-webhook", &topic);
    manifest["spec"]["genesys"]["apiUrl"] = json!(format!("http://{GENESYS}.{}:8090", stage.namespace));
    manifest["spec"]["endpoint"]["url"] = json!(format!("http://{host}:8080/first"));
    steps.prove("a route is Ready at a Genesys that trusts its certificate", || {
        kubectl::apply(&certificate(stage, &host)?)?;
        kubectl::apply(
            &manifests::example(stage, "genesys-simulator.yaml")?
                .replace("genesys-simulator\n", &format!("{GENESYS}\n"))
                .replace("name: genesys-simulator}", &format!("name: {GENESYS}}}")),
        )?;
        trust(stage)?;
        until("it answers", seconds(20), || simulator.answers())?;
        stage.kafka.create_topics(&[&topic])?;
        kubectl::apply(&manifests::secret(stage, "changing-webhook", json!({"secret": "changing"})))?;
        kubectl::apply(&manifest.to_string())?;
        route.becomes_ready(60).map(drop)
    })?;
    let mut sent = Vec::new();
    let tls = json!({"certificateSecretRef": {"name": CERTIFICATE}});
    let edits = [
        ("another path under load fails no request", format!("http://{host}:8080/second"), Value::Null),
        ("TLS switched on under load fails no request", format!("https://{host}/second"), tls),
        ("TLS switched off under load fails no request", format!("http://{host}:8080/third"), Value::Null),
    ];
    for (what, url, tls) in edits {
        manifest["spec"]["endpoint"]["url"] = json!(url);
        manifest["spec"]["relay"] = if tls.is_null() { json!({}) } else { json!({"tls": tls}) };
        let deliveries = steps.prove(what, || under_load(&simulator, &route, &manifest, &url))?;
        sent.extend(deliveries);
    }
    steps.prove("Kafka has every event once", || {
        ensure_exactly_once(stage, &topic, sent.iter(), Key::Id)?;
        measured(&format!("{} events", sent.len()));
        Ok(())
    })?;
    steps.prove("the route is deleted", || {
        route.delete()?;
        ensure_same("registrations", &simulator.registrations(&route.registration_name())?, &Vec::new())?;
        for object in ["deployment", "service"] {
            kubectl::delete(&stage.namespace, &format!("{object}/{GENESYS}"))?;
        }
        Ok(())
    })
}

/// Applies an edit of the endpoint while events flow to what Genesys was told, until the former endpoint is gone. Fails
/// unless each event was accepted at the first try.
fn under_load(simulator: &Simulator, route: &Route, manifest: &Value, url: &str) -> Outcome<Vec<Delivery>> {
    let run = simulator.deliver(&route.registration_name(), json!({"ratePerSecond": RATE}))?;
    run.flows(RATE)?;
    kubectl::apply(&manifest.to_string())?;
    until("Genesys is told", seconds(120), || {
        ensure_same("URL", &simulator.registration(&route.registration_name())?.url, &url.to_owned())
    })?;
    until("the former endpoint is gone", seconds(120), || {
        let endpoint = route.status()?.endpoint.unwrap_or_default();
        ensure(endpoint.phase == EndpointPhase::Stable && endpoint.current.url == url, || {
            format!("{endpoint:?}")
        })
    })?;
    route.becomes_ready(60)?;
    until("no pod of before is left", seconds(90), || {
        let labels = format!("{},app.kubernetes.io/component=relay", route.labels());
        let pods = kubectl::list(&route.namespace, "pods", &labels)?;
        let hash = |pod: &Value| pod["metadata"]["annotations"]["presenceroute.io/config-hash"].clone();
        let first = pods.first().map(hash);
        let is_leaving = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
        let is_settled = pods.iter().all(|pod| Some(hash(pod)) == first && !is_leaving(pod));
        ensure(is_settled, || "some are still ending".into())
    })?;
    run.flows(RATE)?;
    let deliveries = run.stop()?;
    ensure_all_accepted(&deliveries)?;
    measured(&format!("{} events at {RATE} a second", deliveries.len()));
    Ok(deliveries)
}

/// A Secret with a certificate for the Service of the relays, signed by itself.
fn certificate(stage: &Stage, host: &str) -> Outcome<String> {
    let (key, certificate) = (command::file("changing.key", "")?, command::file("changing.crt", "")?);
    let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
    let names = format!("subjectAltName=DNS:{host}");
    let made = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=changing",
        "-addext",
        &names,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    command::run("openssl", &made, None)?;
    let content = json!({"tls.crt": read(&certificate)?, "tls.key": read(&key)?});
    Ok(manifests::secret(stage, CERTIFICATE, content))
}

fn read(file: &str) -> Outcome<String> {
    std::fs::read_to_string(file).map_err(|error| presenceroute_e2e::Failure(format!("{file}: {error}")))
}

/// Has the simulator trust the certificate.
fn trust(stage: &Stage) -> Outcome {
    let container = json!({
        "name": GENESYS,
        "args": ["--ca-file", "/ca/tls.crt"],
        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
    });
    let secret = json!({"secretName": CERTIFICATE, "items": [{"key": "tls.crt", "path": "tls.crt"}]});
    let pod = json!({"containers": [container], "volumes": [{"name": "ca", "secret": secret}]});
    let patch = json!({"spec": {"template": {"spec": pod}}}).to_string();
    let deployment = format!("deployment/{GENESYS}");
    kubectl::run(&["-n", &stage.namespace, "patch", &deployment, "--type=strategic", "-p", &patch])?;
    kubectl::run(&["-n", &stage.namespace, "rollout", "status", &deployment, "--timeout=90s"]).map(drop)
}
