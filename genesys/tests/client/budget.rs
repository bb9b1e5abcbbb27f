//! The budget of requests: shared by the routes of one OAuth client, and not to be used up by others.

use std::time::{Duration, Instant};

use genesys_simulator::Config;
use presenceroute_genesys::error::LimitedBy;
use presenceroute_genesys::{Access, EventBridges, GenesysError, Limits};
use secrecy::SecretString;
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

/// The organisation's OAuth client with another secret.
fn with_secret(organisation: &Organisation, secret: &str) -> EventBridges {
    let access = Access { client_secret: SecretString::from(secret), ..organisation.access() };
    organisation.genesys.client(access).unwrap().event_bridges()
}

#[tokio::test]
async fn wrong_secrets_in_a_loop_do_not_slow_the_right_one() {
    for is_first in [true, false] {
        let limits = Limits { calls_per_minute: 20, longest_wait: Duration::ZERO, ..Limits::default() };
        let organisation = Organisation::with(Config::default(), limits).await;
        if is_first {
            organisation.event_bridges().find_by_name(NAME).await.unwrap();
        }
        // One wrong secret again and again, and many different ones.
        let mut refused = 0;
        for number in 0..60 {
            let secret = format!("wrong-{}", if number < 30 { 0 } else { number });
            match with_secret(&organisation, &secret).find_by_name(NAME).await.unwrap_err() {
                GenesysError::CredentialsRejected { .. } => {}
                GenesysError::RateLimited { cause: LimitedBy::TokenBudget(20), .. } => refused += 1,
                error => panic!("{error}"),
            }
        }
        assert_eq!(refused, 10, "the one wrong secret has a budget, too");
        let start = Instant::now();
        let left = if is_first { 18 } else { 19 };
        for _ in 0..left {
            organisation.event_bridges().find_by_name(NAME).await.unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let error = organisation.event_bridges().find_by_name(NAME).await.unwrap_err();
        assert!(matches!(error, GenesysError::RateLimited { cause: LimitedBy::Budget(20), .. }), "{error}");
    }
}

#[tokio::test]
async fn a_429_to_a_wrong_secret_holds_back_no_other() {
    for is_first in [true, false] {
        let organisation = Organisation::new().await;
        if is_first {
            organisation.event_bridges().find_by_name(NAME).await.unwrap();
        }
        organisation.set_faults(
            json!([{"match": {"path": "/api/v2/oauth", "nth": 1}, "do": {"status": 429, "retryAfter": 50}}]),
        );
        let wrong = with_secret(&organisation, "wrong");
        for cause in ["fewer calls", "leave it alone"] {
            let error = wrong.find_by_name(NAME).await.unwrap_err();
            assert!(error.to_string().contains(cause), "{error}");
        }
        organisation.event_bridges().find_by_name(NAME).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_path_of_ones_own_opens_no_budget_of_others() {
    let limits = Limits { calls_per_minute: 5, longest_wait: Duration::ZERO, ..Limits::default() };
    let organisation = Organisation::with(Config::default(), limits).await;
    organisation.set_faults(json!([
        {"match": {"path": "/own"}, "do": {"status": 200, "body": {"access_token": "made up", "expires_in": 3600}}},
    ]));
    let access = Access { token_path: "/own".to_owned(), ..organisation.access() };
    let own = organisation.genesys.client(access).unwrap().event_bridges();
    for _ in 0..20 {
        own.find_by_name(NAME).await.unwrap_err();
    }
    for _ in 0..4 {
        organisation.event_bridges().find_by_name(NAME).await.unwrap();
    }
}
