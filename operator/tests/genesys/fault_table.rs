//! Every fault of Genesys Cloud at every call: what the condition `Registered` says, when it is tried again, and that
//! afterwards there is exactly one registration or integration, or none after a deletion. The table is the page `docs/genesys-faults.md`;
//! `PRESENCEROUTE_WRITE_DOCS=1 cargo test -p presenceroute-operator --test genesys` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use genesys_simulator::Config;
use presenceroute_genesys::Limits;
use presenceroute_operator::registration::execute::Executor;
use presenceroute_operator::registration::failure::Failure;
use presenceroute_operator::registration::plan::Change;
use serde_json::{Value, json};

use crate::organisation::Organisation;
use crate::route::{Route, executor, later};

/// Longer than any wait after a failure.
const LONG_ENOUGH: Duration = Duration::from_secs(700);
/// In the place of the contract's 15 s.
const TIMEOUT: Duration = Duration::from_millis(400);

const DRIFT: &str = "docs/genesys-faults.md is out of date: run PRESENCEROUTE_WRITE_DOCS=1 cargo test -p \
                     presenceroute-operator --test genesys, and look at the difference";

#[derive(Clone, Copy, PartialEq)]
enum At {
    Token,
    LookUp,
    Creation,
    Update,
    StateChange,
    Deletion,
}

/// The calls of a source, each by its method and the beginning of its path.
type Calls = &'static [(At, &'static str, &'static str)];

const REGISTRATION_CALLS: Calls = &[
    (At::Token, "POST", "/api/v2/oauth/token"),
    (At::LookUp, "GET", "/api/v2/analytics/events/eventbridges"),
    (At::Creation, "POST", "/api/v2/analytics/events/eventbridges"),
    (At::Update, "PUT", "/api/v2/analytics/events/eventbridges"),
    (At::Deletion, "DELETE", "/api/v2/analytics/events/eventbridges"),
];

const INTEGRATION_CALLS: Calls = &[
    (At::Token, "POST", "/oauth/token"),
    (At::LookUp, "GET", "/api/v2/integrations"),
    (At::Creation, "POST", "/api/v2/integrations"),
    (At::Update, "PUT", "/api/v2/integrations"),
    (At::StateChange, "PATCH", "/api/v2/integrations"),
    (At::Deletion, "DELETE", "/api/v2/integrations"),
];

fn faults() -> Vec<(&'static str, Value)> {
    let says = |status: u16| json!({"status": status, "body": {"code": "the.code", "message": "the server's words"}});
    let with_wait = |status: u16, seconds: u64| {
        let mut fault = says(status);
        fault["retryAfter"] = json!(seconds);
        fault
    };
    let late = u64::try_from(TIMEOUT.as_millis() * 3).unwrap();
    vec![
        ("401", says(401)),
        ("403", says(403)),
        ("404", says(404)),
        ("405", says(405)),
        ("409", says(409)),
        ("422", says(422)),
        ("429", says(429)),
        ("429, `Retry-After: 30`", with_wait(429, 30)),
        ("500", says(500)),
        ("503", says(503)),
        ("503, `Retry-After: 30`", with_wait(503, 30)),
        ("the connection is cut before the work", json!({"cutConnection": "before"})),
        ("the connection is cut after the work", json!({"cutConnection": "after"})),
        ("no answer within 15 s, the work not done", json!({"delayMs": late})),
        ("no answer within 15 s, the work done", json!({"delayMs": late, "delayAt": "after"})),
        ("200 with garbage instead of JSON", json!({"garbage": true})),
        ("200 without an id", json!({"noId": true})),
    ]
}

/// What one fault at one call came to: a failure, or how it was lived with.
type Outcome = Result<&'static str, Failure>;

/// Plays the fault at the call, ends it, and proves that all is well afterwards.
async fn play(fault: &Value, at: At, calls: Calls) -> (Outcome, Organisation) {
    let limits = Limits { timeout: TIMEOUT, ..Limits::default() };
    let organisation = Organisation::with(Config::default(), limits).await;
    let executor = executor(&organisation);
    let has_integration = calls == INTEGRATION_CALLS;
    let mut route = if has_integration {
        Route::with_integration(&organisation, "contact-centre")
    } else {
        Route::new(&organisation, "contact-centre")
    };
    if matches!(at, At::Update | At::StateChange | At::Deletion) {
        route.attempt(&executor, false).await.unwrap_or_else(|failure| panic!("{failure:?}"));
    }
    match at {
        At::Update if has_integration => route.event_bridge().aws_region = "eu-central-1".into(),
        At::Update => route.rotate("the-next-secret"),
        At::StateChange => route.object.spec.suspend = true,
        _ => {}
    }
    let (_, method, path) = calls.iter().find(|(call, _, _)| *call == at).unwrap();
    organisation.set_faults(json!([{"match": {"method": method, "path": path}, "do": fault}]));
    let result = step(&mut route, &executor, at).await;

    organisation.set_faults(json!([]));
    later(LONG_ENOUGH).await;
    // Twice: a second registration may come to light only at the next look.
    for _ in 0..2 {
        step(&mut route, &executor, at).await.unwrap_or_else(|failure| panic!("{fault}: {failure:?}"));
        later(LONG_ENOUGH).await;
    }
    let is_there = usize::from(at != At::Deletion);
    if has_integration {
        let left = organisation.simulator.integrations();
        assert_eq!(left.len(), is_there, "{fault}: {left:?}");
        if let [integration] = left.as_slice() {
            let region = &integration.properties.as_ref().unwrap().aws_account_region;
            assert_eq!(region, &route.event_bridge().aws_region, "{fault}");
            assert_eq!(integration.enabled, !route.object.spec.suspend, "{fault}");
        }
        return (result, organisation);
    }
    let left = organisation.simulator.registrations();
    assert_eq!(left.len(), is_there, "{fault}: {left:?}");
    if let [registration] = left.as_slice() {
        let secret = route.signing_secret.as_str().into();
        assert_eq!(registration.secret_fingerprint(), genesys_simulator::fingerprint(&secret), "{fault}");
    }
    (result, organisation)
}

async fn step(route: &mut Route, executor: &Executor, at: At) -> Outcome {
    if at == At::Deletion {
        return route.deregister(executor).await.map(|()| "–");
    }
    let (applied, _) = route.attempt(executor, false).await?;
    Ok(match (at, applied.change) {
        (At::Update | At::StateChange, Some(Change::Created | Change::Replaced)) => "created anew",
        _ if !applied.is_verifiable => "RegisteredUnverified",
        _ => "–",
    })
}

/// The table, and one message for each reason.
async fn page() -> String {
    let mut messages = BTreeMap::new();
    let registrations = table(REGISTRATION_CALLS, &mut messages).await;
    let mut of_integrations = BTreeMap::new();
    let integrations = table(INTEGRATION_CALLS, &mut of_integrations).await;
    let messages: String =
        messages.iter().map(|(reason, message)| format!("| `{reason}` | {message} |\n")).collect();
    format!("{HEAD}{registrations}{MIDDLE}{messages}{INTEGRATIONS}{integrations}{END}")
}

async fn table(calls: Calls, messages: &mut BTreeMap<&'static str, String>) -> String {
    let mut rows = String::new();
    for (name, fault) in faults() {
        let _ = write!(rows, "| {name} |");
        for (at, _, _) in calls.iter().copied() {
            let (outcome, organisation) = play(&fault, at, calls).await;
            let cell = match outcome {
                Ok(cell) => cell.to_owned(),
                Err(failure) => {
                    let message = as_in_production(&failure, &organisation);
                    // The creation is what most people meet first.
                    if at == At::Creation {
                        messages.insert(failure.reason, message);
                    } else {
                        messages.entry(failure.reason).or_insert(message);
                    }
                    format!("{}, {} s", failure.reason, failure.retry_in.as_secs())
                }
            };
            let _ = write!(rows, " {cell} |");
        }
        rows.push('\n');
    }
    rows
}

/// The message as somebody reads it who has no simulator and no impatient test.
fn as_in_production(failure: &Failure, organisation: &Organisation) -> String {
    let message = failure
        .message
        .replace(&format!("http://{}", organisation.running.address()), "https://api.mypurecloud.ie")
        .replace(&format!("{} s", TIMEOUT.as_secs_f32()), "15 s");
    let is_id = |word: &&str| uuid::Uuid::parse_str(word).is_ok();
    match message.split(['/', ' ', ')']).find(is_id) {
        Some(id) => message.replace(id, "ID"),
        None => message,
    }
}

const HEAD: &str = "\
# Faults of Genesys Cloud

Each cell shows the reason of the condition `Registered` (and of `Ready`) and the wait before the next attempt. A \
wait of 1 s doubles with every failure, up to 120 s; a wait of 60 s marks a fault that only a person can fix. Each \
wait is up to a tenth longer at random, and never shorter than `Retry-After`; a changed Secret or spec is tried at \
once. Waits are per route; only a 429 also holds back the other routes of its OAuth client, for its `Retry-After`.

Every cell is tested (`cargo test -p presenceroute-operator --test genesys fault_table`). The test also proves that, \
after the fault, Genesys Cloud holds exactly one registration with the newest secret, or none after a deletion. The \
test writes this page, and fails if the page differs.

| fault | getting a token | looking it up by its name | creating it | updating it | deleting it |
|---|---|---|---|---|---|
";

const MIDDLE: &str = "
– : no failure. `created anew`: a 404 or 405 to an update means that the registration is gone, or cannot be changed; \
a duplicate left by this is deleted at the next verification. `RegisteredUnverified`: the server cannot list \
registrations; the route works, and the operator tries again five minutes later. A 401 counts only after a new token \
was rejected too. A deletion counts once the server no longer lists the registration.

| reason | an example of its message |
|---|---|
";

const INTEGRATIONS: &str = "
## Integrations with Amazon EventBridge

The same faults at the calls of `source.amazonEventBridge`. The test proves that, after the fault, Genesys Cloud holds \
exactly one integration as the spec asks, or none after a deletion.

| fault | getting a token | reading it | creating it | configuring it | enabling or disabling it | deleting it |
|---|---|---|---|---|---|---|
";

const END: &str = "
– : no failure. A configuration that is refused with 409 is read again and written with the version that it has then; it \
fails if that is the version which was refused. `UnexpectedAnswer` to a 404: the server shows the integration all the same.
";

#[tokio::test]
async fn each_fault_at_each_call_becomes_what_the_page_says() {
    let page = page().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/genesys-faults.md");
    if std::env::var_os("PRESENCEROUTE_WRITE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap_or_default() == page, "{DRIFT}\n{page}");
}
