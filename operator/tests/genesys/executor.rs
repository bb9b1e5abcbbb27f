//! The executor: one registration a route, repaired when it drifts, at a steady and small cost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use genesys_simulator::{Config, fingerprint};
use presenceroute_core::genesys_api::RegistrationSpec;
use presenceroute_genesys::{DesiredRegistration, Limits};
use presenceroute_operator::registration::execute::{Executor, Outcome};
use presenceroute_operator::registration::failure::Failure;
use presenceroute_operator::registration::plan::Change;
use secrecy::SecretString;
use serde_json::json;

use crate::organisation::{CREATIONS, LISTINGS, Organisation, SIGNING_SECRET, TOKENS, named};
use crate::route::{Registered, Route, UNTIL_THE_NEXT_ONE, executor, later};

const UPDATES: &str = "PUT /api/v2/analytics/events/eventbridges/{id}";
const REMOVALS: &str = "DELETE /api/v2/analytics/events/eventbridges/{id}";

/// An organisation that takes any OAuth client and any number of calls.
async fn open_organisation() -> Organisation {
    Organisation::open(Config { rate_limit_per_minute: 0, ..Config::default() }, Limits::default()).await
}

/// The registration of the route "one", as it asks for it.
fn of_route_one() -> DesiredRegistration {
    drifted(&named("presence/one"), |spec| {
        spec.url = "https://presence.example.com/one".to_owned();
        spec.event_types = vec!["presence:state:changed".to_owned()];
    })
}

/// Another registration with the same secret.
fn drifted(from: &DesiredRegistration, edit: impl FnOnce(&mut RegistrationSpec)) -> DesiredRegistration {
    let mut registration = from.clone();
    edit(&mut registration.spec);
    registration
}

fn total(organisation: &Organisation) -> u64 {
    organisation.simulator.request_counts().total
}

fn ids(organisation: &Organisation) -> Vec<String> {
    organisation.simulator.registrations().iter().map(|registration| registration.id.to_string()).collect()
}

#[tokio::test]
async fn a_steady_route_costs_one_call_in_five_minutes() {
    const ROUTES: usize = 40;
    const STEP: Duration = Duration::from_secs(5);
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut routes = Vec::new();
    for number in 0..ROUTES {
        let mut route = Route::new(&organisation, &format!("route-{number}"));
        let Registered { trusted_for, .. } = route.register(&executor).await.unwrap();
        routes.push((route, trusted_for));
    }
    let before = total(&organisation);
    let mut looked = Vec::new();
    for step in 0..(3600 / STEP.as_secs()) {
        later(STEP).await;
        for (route, due) in &mut routes {
            *due = due.saturating_sub(STEP);
            if due.is_zero() {
                let Registered { change, trusted_for, .. } = route.register(&executor).await.unwrap();
                assert_eq!(change, None);
                *due = trusted_for;
                looked.push(step);
            }
        }
    }
    let calls = total(&organisation) - before;
    println!("{calls} calls of {ROUTES} routes in an hour");
    assert_eq!(calls, looked.len() as u64, "a look is one call");
    assert!(calls <= 12 * ROUTES as u64 && calls >= 10 * ROUTES as u64, "{calls} calls in an hour");
    let last_round: BTreeSet<_> = looked[looked.len() - ROUTES..].iter().collect();
    assert!(last_round.len() > ROUTES / 4, "they have drifted apart: {last_round:?}");
}

#[tokio::test]
async fn a_restart_spreads_verifications_over_five_minutes() {
    const ROUTES: usize = 40;
    let organisation = open_organisation().await;
    let before_the_restart = executor(&organisation);
    let mut routes = Vec::new();
    for number in 0..ROUTES {
        let mut route = Route::new(&organisation, &format!("route-{number}"));
        route.register(&before_the_restart).await.unwrap();
        routes.push(route);
    }
    let executor = executor(&organisation);
    let before = total(&organisation);
    let mut waits = Vec::new();
    for route in &routes {
        let Outcome::Postponed(wait) = route.register_in_order(&executor).await else {
            panic!("it was asked for")
        };
        let Outcome::Postponed(again) = route.register_in_order(&executor).await else {
            panic!("it was asked for")
        };
        assert!(again <= wait, "another look does not put it off");
        waits.push(wait);
    }
    assert_eq!(total(&organisation), before);
    waits.sort_unstable();
    assert!(waits[ROUTES - 1] <= Duration::from_secs(300), "{waits:?}");
    assert!(
        waits[ROUTES / 4] < Duration::from_secs(150) && waits[3 * ROUTES / 4] > Duration::from_secs(150),
        "{waits:?}"
    );

    // What is new does not wait.
    routes[0].rotate("another-secret");
    let Outcome::Registered { applied, .. } = routes[0].register_in_order(&executor).await else {
        panic!("it waits")
    };
    assert_eq!(applied.change, Some(Change::Updated));

    later(Duration::from_secs(301)).await;
    let before = total(&organisation);
    for route in &routes[1..] {
        let Outcome::Registered { applied, .. } = route.register_in_order(&executor).await else {
            panic!("it waits")
        };
        assert_eq!(applied.change, None);
    }
    assert_eq!(total(&organisation) - before, ROUTES as u64 - 1);
}

#[tokio::test]
async fn a_route_that_failed_since_a_restart_is_verified_once_it_is_well() {
    let organisation = open_organisation().await;
    let mut route = Route::new(&organisation, "one");
    route.register(&executor(&organisation)).await.unwrap();
    let restarted = executor(&organisation);
    assert!(matches!(route.register_in_order(&restarted).await, Outcome::Postponed(_)));
    // Its signing Secret went and came back: the condition says that it waits, until somebody looks.
    assert_eq!(route.register(&restarted).await.unwrap().change, None);
}

#[tokio::test]
async fn an_exhausted_budget_postpones_a_route_that_was_in_order() {
    let limits = Limits { calls_per_minute: 6, ..Limits::default() };
    let organisation =
        Organisation::open(Config { rate_limit_per_minute: 0, ..Config::default() }, limits).await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    route.register(&executor).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    while organisation.event_bridges().find_by_name("others").await.is_ok() {}
    let Outcome::Postponed(wait) = route.register_in_order(&executor).await else {
        panic!("it was asked for")
    };
    assert!(wait > Duration::from_secs(50) && wait < Duration::from_secs(90), "{wait:?}");
    later(wait + Duration::from_secs(1)).await;
    let Outcome::Registered { applied, .. } = route.register_in_order(&executor).await else {
        panic!("it waits")
    };
    assert_eq!(applied.change, None);
}

#[tokio::test]
async fn a_recent_verification_is_not_repeated() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    route.register(&executor).await.unwrap();
    let before = total(&organisation);
    for _ in 0..100 {
        route.register(&executor).await.unwrap();
    }
    assert_eq!(total(&organisation), before);
}

#[tokio::test]
async fn every_drift_is_repaired_at_the_next_look() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let as_desired = of_route_one();
    let table = [
        ("enabled", drifted(&as_desired, |spec| spec.enabled = false)),
        ("url", drifted(&as_desired, |spec| spec.url = "https://else.example.com/".to_owned())),
        ("eventTypes", drifted(&as_desired, |spec| spec.event_types = vec!["x".to_owned()])),
        ("retryPolicy", drifted(&as_desired, |spec| spec.retry_policy.max_retries = 0)),
        ("name", drifted(&as_desired, |spec| spec.name = "renamed".to_owned())),
    ];
    let id = route.register(&executor).await.unwrap().registration.id;
    for (what, drifted) in table {
        organisation.event_bridges().update(&id, &drifted).await.unwrap().unwrap();
        later(UNTIL_THE_NEXT_ONE).await;
        let repaired = route.register(&executor).await.unwrap();
        assert_eq!(repaired.change, Some(Change::Repaired(what.to_owned())));
        let now = organisation.event_bridges().get(&id).await.unwrap().unwrap();
        assert_eq!(now.differences(&as_desired), [], "{what}");
        assert_eq!(ids(&organisation), [id.as_str()]);
    }
    organisation.event_bridges().delete(&id).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    assert_eq!(route.register(&executor).await.unwrap().change, Some(Change::Created));
    assert_eq!(ids(&organisation).len(), 1);
}

#[tokio::test]
async fn a_failure_says_whether_drift_was_seen() {
    const REGISTRATIONS: &str = "/api/v2/analytics/events/eventbridges";
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    let fails = |method: &str, status: u16| {
        organisation.set_faults(
            json!([{"match": {"method": method, "path": REGISTRATIONS}, "do": {"status": status}}]),
        );
    };
    for status in [401, 403, 500, 503] {
        fails("GET", status);
        later(UNTIL_THE_NEXT_ONE).await;
        let unseen = route.register(&executor).await.unwrap_err();
        assert!(!unseen.is_drift, "{unseen:?}");
    }
    let disabled = drifted(&of_route_one(), |spec| spec.enabled = false);
    organisation.set_faults(json!([]));
    organisation.event_bridges().update(&id, &disabled).await.unwrap().unwrap();
    for status in [403, 503] {
        fails("PUT", status);
        later(UNTIL_THE_NEXT_ONE).await;
        assert!(route.register(&executor).await.unwrap_err().is_drift, "{status}");
        assert!(route.register(&executor).await.unwrap_err().is_drift, "{status}, before the next try");
    }
    organisation.set_faults(json!([]));
    organisation.event_bridges().delete(&id).await.unwrap();
    fails("POST", 403);
    later(UNTIL_THE_NEXT_ONE).await;
    assert!(route.register(&executor).await.unwrap_err().is_drift, "it is gone");
}

/// A route of the same name in another cluster, which serves another URL, and the operator there.
fn in_another_cluster(organisation: &Organisation) -> (Route, Executor) {
    let mut route = Route::new(organisation, "one");
    route.object.spec.endpoint.as_mut().unwrap().url = "https://presence.example.org/one".to_owned();
    (route, executor(organisation))
}

/// Has two clusters find out that they have a registration of one name.
async fn contest(organisation: &Organisation) -> ((Route, Executor), (Route, Executor)) {
    let (mut first, executor) = (Route::new(organisation, "one"), executor(organisation));
    let (mut second, elsewhere) = in_another_cluster(organisation);
    first.register(&executor).await.unwrap();
    let url = Some(Change::Repaired("url".to_owned()));
    assert_eq!(second.register(&elsewhere).await.unwrap().change, url);
    later(UNTIL_THE_NEXT_ONE).await;
    assert_eq!(first.register(&executor).await.unwrap().change, url);
    let failure = second.register(&elsewhere).await.unwrap_err();
    assert_eq!(failure.reason, "Contested");
    assert!(failure.message.contains("https://presence.example.com/one"), "{failure:?}");
    assert!(failure.message.contains("spec.source.webhook.name"), "{failure:?}");
    ((first, executor), (second, elsewhere))
}

#[tokio::test]
async fn two_clusters_with_one_name_do_not_fight_for_ever() {
    let organisation = open_organisation().await;
    let ((mut first, executor), (mut second, elsewhere)) = contest(&organisation).await;
    let updates = organisation.calls(UPDATES);
    for _ in 0..3 {
        later(UNTIL_THE_NEXT_ONE).await;
        assert_eq!(first.register(&executor).await.unwrap().change, None);
        assert_eq!(second.register(&elsewhere).await.unwrap_err().reason, "Contested");
    }
    // Nor does one that starts anew begin it again: the condition has told.
    let restarted = self::executor(&organisation);
    assert_eq!(second.register(&restarted).await.unwrap_err().reason, "Contested");
    assert_eq!(organisation.calls(UPDATES), updates);

    // The one with another name gets a registration of its own, and takes nothing of the other's away.
    second.webhook().name = Some("elsewhere-one".to_owned());
    assert_eq!(second.register(&elsewhere).await.unwrap().change, Some(Change::Created));
    second.remove_former(&elsewhere).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    assert_eq!(first.register(&executor).await.unwrap().change, None);
    assert_eq!(ids(&organisation).len(), 2);
}

#[tokio::test]
async fn deleting_a_contested_route_leaves_the_registration() {
    let organisation = open_organisation().await;
    let ((mut first, executor), (second, elsewhere)) = contest(&organisation).await;
    second.deregister(&elsewhere).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    assert_eq!(first.register(&executor).await.unwrap().change, None);
    assert_eq!(ids(&organisation).len(), 1);
}

#[tokio::test]
async fn another_owners_registration_is_reported_and_left() {
    const THEIRS: &str = "https://presence.example.org/one";
    let organisation = open_organisation().await;
    let (mut route, executor) = (Route::new(&organisation, "one"), executor(&organisation));
    let id = route.register(&executor).await.unwrap().registration.id;
    let theirs = drifted(&of_route_one(), |spec| spec.url = THEIRS.to_owned());
    let other = organisation.event_bridges().create(&theirs).await.unwrap();

    // Neither a verification, nor an edit, nor the removal of a former registration deletes it.
    later(UNTIL_THE_NEXT_ONE).await;
    let verified = route.register(&executor).await.unwrap();
    assert_eq!(verified.others, [THEIRS]);
    route.object.spec.suspend = true;
    route.register(&executor).await.unwrap();
    assert_eq!(ids(&organisation).len(), 2);
    route.deregister(&executor).await.unwrap();
    assert_eq!(ids(&organisation), [other.id], "{id} is gone, and it alone");
}

#[tokio::test]
async fn a_registration_that_was_taken_and_renamed_is_let_go() {
    let organisation = open_organisation().await;
    let (mut first, executor) = (Route::new(&organisation, "one"), executor(&organisation));
    let (mut second, elsewhere) = in_another_cluster(&organisation);
    first.register(&executor).await.unwrap();
    second.register(&elsewhere).await.unwrap();
    second.webhook().name = Some("elsewhere-one".to_owned());
    second.register(&elsewhere).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    assert_eq!(first.register(&executor).await.unwrap().change, Some(Change::Created));
    assert_eq!(second.register(&elsewhere).await.unwrap().change, None);
    assert_eq!(ids(&organisation).len(), 2);
}

#[tokio::test]
async fn a_url_changed_now_and_then_is_repaired_each_time() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    let edited = drifted(&of_route_one(), |spec| spec.url = "https://else.example.com/".to_owned());
    for _ in 0..3 {
        organisation.event_bridges().update(&id, &edited).await.unwrap().unwrap();
        later(UNTIL_THE_NEXT_ONE).await;
        assert_eq!(route.register(&executor).await.unwrap().change, Some(Change::Repaired("url".to_owned())));
        later(UNTIL_THE_NEXT_ONE).await;
        assert_eq!(route.register(&executor).await.unwrap().change, None);
    }
}

#[tokio::test]
async fn a_secret_that_the_relays_do_not_know_is_sent_again() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    let other = DesiredRegistration { secret: SecretString::from("by-somebody"), ..named("presence/one") };
    organisation.event_bridges().update(&id, &other).await.unwrap();
    later(Duration::from_secs(10)).await;
    assert!(route.register_with(&executor, true).await.unwrap().change.is_some());
    let held = organisation.simulator.registrations()[0].secret_fingerprint();
    assert_eq!(held, fingerprint(&SecretString::from(SIGNING_SECRET)));
}

#[tokio::test]
async fn a_late_second_registration_is_removed() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    // As a creation that was given up after 15 s, and is carried out all the same.
    organisation.event_bridges().create(&of_route_one()).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    route.register(&executor).await.unwrap();
    assert_eq!(ids(&organisation), [id]);
}

#[tokio::test]
async fn an_unconfirmed_create_is_looked_up_until_it_times_out() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let fault = json!({"status": 504});
    organisation.set_faults(json!([{"match": {"method": "POST", "path": "/api/v2/analytics"}, "do": fault}]));
    route.register(&executor).await.unwrap_err();
    organisation.set_faults(json!([]));
    let failure = route.deregister(&executor).await.unwrap_err();
    assert_eq!(failure.reason, "CreationUnanswered");
    assert!(failure.retry_in <= Duration::from_secs(60), "{failure:?}");
    // What the server was still at.
    organisation.event_bridges().create(&of_route_one()).await.unwrap();
    later(failure.retry_in + Duration::from_secs(1)).await;
    route.deregister(&executor).await.unwrap();
    assert_eq!(ids(&organisation).len(), 0);
}

/// A creation by an operator that died before it was answered, and is carried out when the test says so.
async fn creation_under_way(organisation: &Organisation) -> Route {
    let mut route = Route::new(organisation, "one");
    let fault = json!({"cutConnection": "before"});
    organisation.set_faults(json!([{"match": {"method": "POST", "path": "/api/v2/analytics"}, "do": fault}]));
    route.register(&executor(organisation)).await.unwrap_err();
    organisation.set_faults(json!([]));
    route
}

#[tokio::test]
async fn a_late_create_of_an_earlier_operator_is_found() {
    let organisation = open_organisation().await;
    let mut route = creation_under_way(&organisation).await;
    let restarted = executor(&organisation);
    let Registered { registration, change, trusted_for, .. } = route.register(&restarted).await.unwrap();
    assert_eq!(change, Some(Change::Created));
    assert!(trusted_for < Duration::from_secs(61), "{trusted_for:?}");
    // That what is known is found meanwhile accounts for nothing.
    route.webhook().event_types = serde_json::from_value(json!(["presence:new"])).unwrap();
    route.register(&restarted).await.unwrap();
    organisation.event_bridges().create(&of_route_one()).await.unwrap();
    later(trusted_for + Duration::from_secs(1)).await;
    let Registered { trusted_for, .. } = route.register(&restarted).await.unwrap();
    assert_eq!(ids(&organisation), [registration.id]);
    assert!(trusted_for >= Duration::from_secs(300), "from now on it is a route as any: {trusted_for:?}");
}

#[tokio::test]
async fn it_is_found_too_where_a_listing_is_dear() {
    let organisation = open_organisation().await;
    let mut route = creation_under_way(&organisation).await;
    let restarted = executor(&organisation);
    let page = json!({"status": 200, "body": {"entities": [], "pageCount": 3}});
    organisation.set_faults(json!([{"match": {"method": "GET"}, "do": page}]));
    let id = route.register(&restarted).await.unwrap().registration.id;
    organisation.set_faults(json!([]));
    organisation.event_bridges().create(&of_route_one()).await.unwrap();
    later(Duration::from_secs(61)).await;
    route.register(&restarted).await.unwrap();
    assert_eq!(ids(&organisation), [id]);
}

#[tokio::test]
async fn a_deletion_waits_for_an_earlier_operators_create() {
    let organisation = open_organisation().await;
    let route = creation_under_way(&organisation).await;
    let restarted = executor(&organisation);
    let failure = route.deregister(&restarted).await.unwrap_err();
    assert_eq!(failure.reason, "CreationUnanswered");
    organisation.event_bridges().create(&of_route_one()).await.unwrap();
    later(failure.retry_in + Duration::from_secs(1)).await;
    route.deregister(&restarted).await.unwrap();
    assert_eq!(ids(&organisation).len(), 0);
}

#[tokio::test]
async fn a_deletion_waits_for_nothing_without_unconfirmed_creates() {
    let organisation = open_organisation().await;
    let mut route = Route::new(&organisation, "one");
    let executor = executor(&organisation);
    organisation.set_faults(json!([{"match": {"path": "/api/v2/oauth/token"}, "do": {"status": 401}}]));
    route.register(&executor).await.unwrap_err();
    organisation.set_faults(json!([]));
    assert_eq!(route.record.id(), None);
    route.deregister(&executor).await.unwrap();

    let route = creation_under_way(&organisation).await;
    organisation.event_bridges().create(&of_route_one()).await.unwrap();
    route.deregister(&self::executor(&organisation)).await.unwrap();
    assert_eq!(ids(&organisation).len(), 0);
}

#[tokio::test]
async fn a_restarted_operator_finds_an_unconfirmed_create_by_name() {
    for fault in [json!({"cutConnection": "after"}), json!({"garbage": true}), json!({"noId": true})] {
        let small_pages = Config { page_size_cap: 1, ..Config::default() };
        let organisation = Organisation::open(small_pages, Limits::default()).await;
        let mut route = Route::new(&organisation, "one");
        organisation
            .set_faults(json!([{"match": {"method": "POST", "path": "/api/v2/analytics"}, "do": fault}]));
        route.register(&executor(&organisation)).await.unwrap_err();
        // Two more of that name, so that the one is on the last of several pages.
        organisation.set_faults(json!([]));
        for _ in 0..2 {
            organisation.event_bridges().create(&of_route_one()).await.unwrap();
        }
        let found = route.register(&executor(&organisation)).await.unwrap();
        assert_eq!(ids(&organisation), [found.registration.id], "{fault}");
        let held = organisation.simulator.registrations()[0].secret_fingerprint();
        assert_eq!(held, fingerprint(&SecretString::from(SIGNING_SECRET)));
    }
}

#[tokio::test]
async fn a_post_only_server_is_posted_to_once_and_on_changes() {
    let organisation = open_organisation().await;
    organisation.suffers(json!({"postOnly": true}));
    let mut route = Route::new(&organisation, "one");
    let first = executor(&organisation);
    assert!(!route.register(&first).await.unwrap().verifiable);
    later(UNTIL_THE_NEXT_ONE).await;
    route.register(&first).await.unwrap();
    let restarted = executor(&organisation);
    let again = route.register(&restarted).await.unwrap();
    assert_eq!((again.change, again.verifiable, organisation.calls(CREATIONS)), (None, false, 1));
    let left = again.registration.id;
    route.rotate("the-next-secret");
    let change = route.register(&restarted).await.unwrap().change;
    assert_eq!((change, organisation.calls(CREATIONS)), (Some(Change::Duplicated { left }), 2));
    assert_eq!(route.deregister(&restarted).await.unwrap_err().reason, "Unsupported");
}

#[tokio::test]
async fn without_get_a_change_replaces_the_registration() {
    for (method, creations) in [("GET", 1), ("PUT", 2)] {
        let organisation = open_organisation().await;
        let missing = |method: &str| json!({"match": {"method": method}, "do": {"status": 405}});
        organisation.set_faults(json!([missing("GET"), missing(method)]));
        let mut route = Route::new(&organisation, "one");
        let executor = executor(&organisation);
        route.register(&executor).await.unwrap();
        route.webhook().event_types = serde_json::from_value(json!(["presence:new"])).unwrap();
        assert_eq!(route.register(&executor).await.unwrap().change, Some(Change::Replaced));
        assert_eq!(organisation.calls(CREATIONS), creations, "without {method}");
        let registrations = organisation.simulator.registrations();
        assert_eq!(registrations.len(), 1, "without {method}: {registrations:?}");
        assert_eq!(registrations[0].event_types, ["presence:new"]);
    }
}

#[tokio::test]
async fn a_server_that_ignores_the_name_still_costs_one_call() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let mut other = Route::new(&organisation, "two");
    let id = route.register(&executor).await.unwrap().registration.id;
    other.register(&executor).await.unwrap();
    let page =
        json!({"status": 200, "body": {"entities": [{"id": id, "name": "presence/one"}], "pageCount": 3}});
    organisation.set_faults(json!([
        {"match": {"method": "GET", "path": "/api/v2/analytics/events/eventbridges/"}, "do": {"delayMs": 1}},
        {"match": {"method": "GET"}, "do": page},
    ]));
    later(UNTIL_THE_NEXT_ONE).await;
    route.register(&executor).await.unwrap();
    let before = total(&organisation);
    later(UNTIL_THE_NEXT_ONE).await;
    route.register(&executor).await.unwrap();
    assert_eq!(total(&organisation) - before, 1);

    // After a restart one route finds out, and the others are spared.
    let restarted = self::executor(&organisation);
    route.register(&restarted).await.unwrap();
    let before = total(&organisation);
    other.register(&restarted).await.unwrap();
    assert_eq!(total(&organisation) - before, 1);
}

#[tokio::test]
async fn one_broken_route_does_not_slow_others() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut broken = Route::new(&organisation, "broken");
    let mut fine = Route::new(&organisation, "fine");
    let id = broken.register(&executor).await.unwrap().registration.id;
    fine.register(&executor).await.unwrap();
    let path = format!("/api/v2/analytics/events/eventbridges/{id}");
    organisation.set_faults(json!([{"match": {"path": path}, "do": {"status": 503, "retryAfter": 600}}]));
    broken.rotate("two");
    assert!(broken.register(&executor).await.unwrap_err().retry_in >= Duration::from_secs(600));
    for secret in ["two", "three", "four"] {
        fine.rotate(secret);
        fine.register(&executor).await.unwrap();
    }
    assert_eq!(organisation.calls(UPDATES), 4, "the broken one was not tried again");

    // A route whose API never answers holds up only itself.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut lost = Route::new(&organisation, "lost");
    lost.object.spec.genesys.api_url = Some(format!("http://{}", silent.local_addr().unwrap()));
    let start = Instant::now();
    let (waiting, quick) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(2), lost.register(&executor)), async {
            fine.rotate("five");
            fine.register(&executor).await.unwrap();
            start.elapsed()
        });
    assert!(waiting.is_err() && quick < Duration::from_secs(1), "{quick:?}");
}

#[tokio::test]
async fn a_retry_after_is_obeyed_and_nothing_is_asked_before() {
    for fault in [json!({"status": 429, "retryAfter": 40}), json!({"status": 503, "retryAfter": 40})] {
        let organisation = open_organisation().await;
        let executor = executor(&organisation);
        let mut route = Route::new(&organisation, "one");
        organisation.suffers(fault.clone());
        let failure = route.register(&executor).await.unwrap_err();
        assert!(failure.retry_in >= Duration::from_secs(40), "{failure:?}");
        organisation.set_faults(json!([]));
        let before = total(&organisation);
        later(Duration::from_secs(39)).await;
        route.register(&executor).await.unwrap_err();
        assert_eq!(total(&organisation), before, "{fault}");
        later(Duration::from_secs(5)).await;
        route.register(&executor).await.unwrap();
    }
}

#[tokio::test]
async fn backoff_grows_to_two_minutes_and_starts_again() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    organisation.suffers(json!({"status": 500}));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let Failure { retry_in, .. } = route.register(&executor).await.unwrap_err();
        waits.push(retry_in);
        later(retry_in + Duration::from_millis(1)).await;
    }
    for (wait, least) in waits.iter().zip([1, 2, 4, 8, 16, 32, 64, 120, 120]) {
        let least = Duration::from_secs(least);
        assert!(*wait >= least && *wait <= least.mul_f64(1.11), "{waits:?}");
    }
    organisation.set_faults(json!([]));
    route.register(&executor).await.unwrap();
    organisation.suffers(json!({"status": 500}));
    route.rotate("two");
    assert!(route.register(&executor).await.unwrap_err().retry_in < Duration::from_secs(2));
}

#[tokio::test]
async fn new_credentials_are_used_at_once() {
    let organisation = Organisation::new().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let right = route.client.clone();
    route.register(&executor).await.unwrap();
    route.client.secret = SecretString::from("not-the-secret");
    assert_eq!(route.register(&executor).await.unwrap_err().reason, "CredentialsRejected");
    let before = total(&organisation);
    route.register(&executor).await.unwrap_err();
    assert_eq!(total(&organisation), before, "what is wrong is not tried again and again");
    route.client = right;
    route.register(&executor).await.unwrap();
}

#[tokio::test]
async fn a_mended_way_to_the_api_is_tried_at_once() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let right = route.object.spec.genesys.api.token_path.replace("/nowhere".to_owned());
    assert_eq!(route.register(&executor).await.unwrap_err().reason, "WrongPath");
    route.object.spec.genesys.api.token_path = right;
    route.register(&executor).await.unwrap();
}

#[tokio::test]
async fn another_client_of_the_organisation_keeps_the_registration() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    route.client.id = "the-next-client".to_owned();
    assert_eq!(route.register(&executor).await.unwrap().registration.id, id);
    assert_eq!((route.record.former.len(), organisation.calls(TOKENS)), (0, 2));
}

#[tokio::test]
async fn another_name_is_given_in_place() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    route.webhook().name = Some("another".to_owned());
    let renamed = route.register(&executor).await.unwrap();
    assert_eq!(renamed.change, Some(Change::Repaired("name".to_owned())));
    assert_eq!((ids(&organisation), route.record.former.len()), (vec![id], 0));
    assert_eq!(organisation.simulator.registrations()[0].name, "another");
}

#[tokio::test]
async fn a_route_that_moves_leaves_nothing_behind() {
    let (old, new) = (open_organisation().await, open_organisation().await);
    let mut route = Route::new(&old, "one");
    let before = executor(&old);
    route.register(&before).await.unwrap();
    route.move_to(&new);
    // The operator that made it is gone; what it takes to find it is in the record.
    let executor = executor(&new);
    route.register(&executor).await.unwrap();
    assert_eq!((ids(&old).len(), ids(&new).len()), (1, 1), "the new one first");
    route.remove_former(&executor).await.unwrap();
    assert_eq!((ids(&old).len(), ids(&new).len(), route.record.former.len()), (0, 1, 0));
}

#[tokio::test]
async fn an_unreachable_former_location_holds_up_nothing() {
    let (old, new) = (open_organisation().await, open_organisation().await);
    let executor = executor(&old);
    let mut route = Route::new(&old, "one");
    route.register(&executor).await.unwrap();
    old.set_faults(json!([{"do": {"cutConnection": "before"}}]));
    route.move_to(&new);
    route.register(&executor).await.unwrap();
    let failure = route.remove_former(&executor).await.unwrap_err();
    assert_eq!((failure.reason, route.record.former.len(), ids(&new).len()), ("Unreachable", 1, 1));
    let before = total(&old);
    route.remove_former(&executor).await.unwrap_err();
    assert_eq!(total(&old), before, "not before its time");
    route.register(&executor).await.unwrap();

    old.set_faults(json!([]));
    later(failure.retry_in + Duration::from_secs(1)).await;
    route.remove_former(&executor).await.unwrap();
    assert_eq!((ids(&old).len(), route.record.former.len()), (0, 0));
}

#[tokio::test]
async fn not_found_by_another_client_proves_nothing() {
    let (old, new) = (open_organisation().await, open_organisation().await);
    let executor = executor(&old);
    let mut route = Route::new(&old, "one");
    let id = route.register(&executor).await.unwrap().registration.id;
    route.client.id = "client-of-the-new-organisation".to_owned();
    route.move_to(&new);
    route.register(&executor).await.unwrap();
    // To the new client, the old organisation is another one: nothing is there.
    let unseen = json!([
        {"match": {"method": "GET", "path": format!("/api/v2/analytics/events/eventbridges/{id}"), "nth": 1},
         "do": {"status": 404}},
    ]);
    old.set_faults(unseen.clone());
    let mut after_a_restart = Route::new(&new, "one");
    after_a_restart.client.id = route.client.id.clone();
    after_a_restart.record = route.record.clone();
    let failure = after_a_restart.remove_former(&self::executor(&new)).await.unwrap_err();
    assert_eq!(failure.reason, "OAuthClientGone");
    assert!(failure.message.contains(r#"Secret "oauth" (key "clientId")"#), "{failure:?}");
    assert_eq!(ids(&old).len(), 1);

    old.set_faults(unseen);
    route.remove_former(&executor).await.unwrap();
    assert_eq!(ids(&old).len(), 0);
}

#[tokio::test]
async fn a_removal_counts_when_the_server_lists_none() {
    let organisation = open_organisation().await;
    let executor = executor(&organisation);
    let mut route = Route::new(&organisation, "one");
    route.register(&executor).await.unwrap();
    organisation.set_faults(json!([{"match": {"method": "DELETE"}, "do": {"status": 404}}]));
    let failure = route.deregister(&executor).await.unwrap_err();
    assert!(failure.message.contains("lists it all the same"), "{failure:?}");
    organisation.set_faults(json!([]));
    later(failure.retry_in + Duration::from_secs(1)).await;
    route.deregister(&executor).await.unwrap();
    assert_eq!(ids(&organisation).len(), 0);
    assert!(organisation.calls(REMOVALS) > 1 && organisation.calls(LISTINGS) > 1);
}
