//! The budget of requests: shared by the routes of one OAuth client, and not to be used up by others.

use std::time::{Duration, Instant};

use genesys_simulator::Config;
use presenceroute_genesys::error::LimitedBy;
use presenceroute_genesys::{GenesysError, Limits};
use serde_json::json;

use crate::organisation::{LISTINGS, NAME, Organisation};

#[tokio::test]
async fn the_routes_of_a_client_share_one_budget() {
    let limits = Limits { calls_per_minute: 5, ..Limits::default() };
    let organisation = Organisation::with(Config::default(), limits).await;
    // The token is the first call.
    for _ in 0..4 {
        organisation.event_bridges().find_by_name(NAME).await.unwrap();
    }
    let error = organisation.event_bridges().find_by_name("another/route").await.unwrap_err();
    let GenesysError::RateLimited { cause: LimitedBy::Budget(5), retry_after: Some(wait), .. } = error else {
        panic!("{error}");
    };
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(61), "{wait:?}");
    assert_eq!(organisation.simulator.request_counts().total, 5);
}

#[tokio::test]
async fn the_budget_stays_within_what_the_server_allows() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    let calls = (0..400).map(|_| event_bridges.find_by_name(NAME));
    let results = futures::future::join_all(calls).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 299);
    assert!(!organisation.simulator.request_counts().by_status.contains_key(&429));
}

#[tokio::test]
async fn a_429_holds_back_the_same_client_and_no_other() {
    let organisation = Organisation::new().await;
    organisation
        .set_faults(json!([{"match": {"method": "GET", "nth": 1}, "do": {"status": 429, "retryAfter": 30}}]));
    let event_bridges = organisation.event_bridges();
    event_bridges.find_by_name(NAME).await.unwrap_err();

    let start = Instant::now();
    let error = organisation.event_bridges().find_by_name("another/route").await.unwrap_err();
    assert!(matches!(error, GenesysError::RateLimited { cause: LimitedBy::Earlier, .. }), "{error}");
    assert!(error.retry_after().unwrap() > Duration::from_secs(29));
    assert!(start.elapsed() < Duration::from_millis(500), "told, not slept");
    assert_eq!(organisation.calls(LISTINGS), 1);

    let other_organisation = Organisation::new().await;
    other_organisation.event_bridges().find_by_name(NAME).await.unwrap();
}

#[tokio::test]
async fn requests_go_on_after_retry_after() {
    let organisation = Organisation::new().await;
    organisation
        .set_faults(json!([{"match": {"method": "GET", "nth": 1}, "do": {"status": 429, "retryAfter": 1}}]));
    let event_bridges = organisation.event_bridges();
    event_bridges.find_by_name(NAME).await.unwrap_err();
    let start = Instant::now();
    event_bridges.find_by_name(NAME).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
}
