//! Faults of the server and the network: which error each becomes.

use std::time::Duration;

use genesys_simulator::{Config, DuplicateNames};
use presenceroute_genesys::{Access, Limits};
use serde_json::json;

use crate::organisation::{CREATIONS, NAME, Organisation, desired};

/// Every fault of an answer, what it becomes, whether only a person can help, and whether a creation that suffered it
/// may have been carried out.
#[tokio::test]
async fn each_fault_of_a_creation_has_its_error() {
    let table = [
        (json!({"status": 400}), "InvalidRequest", true, false),
        (json!({"status": 401}), "CredentialsRejected", true, false),
        (json!({"status": 403}), "Forbidden", true, false),
        (json!({"status": 404}), "WrongPath", true, false),
        (json!({"status": 405}), "WrongPath", true, false),
        (json!({"status": 409}), "Conflict", false, false),
        (json!({"status": 429, "retryAfter": 17}), "RateLimited", false, false),
        (json!({"status": 429}), "RateLimited", false, false),
        (json!({"status": 500}), "ServerError", false, true),
        (json!({"status": 503}), "ServerError", false, true),
        (json!({"status": 503, "retryAfter": 9}), "ServerError", false, true),
        (json!({"cutConnection": "before"}), "Unreachable", false, true),
        (json!({"cutConnection": "after"}), "Unreachable", false, true),
        (json!({"delayMs": 3000}), "Timeout", false, true),
        (json!({"garbage": true}), "UnexpectedAnswer", false, true),
        (json!({"status": 302}), "UnexpectedAnswer", false, true),
        (json!({"noId": true}), "NoId", false, true),
    ];
    let impatient = Limits { timeout: Duration::from_secs(1), ..Limits::default() };
    for (fault, reason, is_permanent, may_have_created) in table {
        let organisation = Organisation::with(Config::default(), impatient).await;
        organisation.suffers(fault.clone());
        let error = organisation.event_bridges().create(&desired()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{fault}: {error}");
        assert_eq!(error.is_permanent(), is_permanent, "{fault}: {error}");
        assert_eq!(error.may_have_created(), may_have_created, "{fault}: {error}");
        assert_eq!(error.retry_after().map(|wait| wait.as_secs()), fault["retryAfter"].as_u64(), "{fault}");
        let calls = if reason == "CredentialsRejected" { 2 } else { 1 };
        assert_eq!(organisation.calls(CREATIONS), calls, "{fault} is not tried again here");
    }
}

#[tokio::test]
async fn a_server_that_knows_post_alone_is_unsupported() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    let id = event_bridges.create(&desired()).await.unwrap().id;
    for fault in [json!({"postOnly": true}), json!({"status": 501})] {
        organisation.suffers(fault);
        let errors = [
            event_bridges.find_by_name(NAME).await.unwrap_err(),
            event_bridges.get(&id).await.unwrap_err(),
            event_bridges.update(&id, &desired()).await.unwrap_err(),
            event_bridges.delete(&id).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.reason(), error.is_permanent()), ("Unsupported", true), "{error}");
        }
    }
    // Nothing at the collection's path is a wrong path or no listing; nothing at an id's is that it is gone.
    organisation.suffers(json!({"status": 404}));
    assert_eq!(event_bridges.find_by_name(NAME).await.unwrap_err().reason(), "Unsupported");
    assert_eq!(event_bridges.get(&id).await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_token_endpoint_is_a_wrong_path() {
    let organisation = Organisation::new().await;
    let access = Access { token_path: "/nowhere".to_owned(), ..organisation.access() };
    let error =
        organisation.genesys.client(access).unwrap().event_bridges().create(&desired()).await.unwrap_err();
    assert_eq!(error.reason(), "WrongPath");
    assert!(error.to_string().contains("tokenPath"), "{error}");
    assert!(!error.may_have_created());
}

#[tokio::test]
async fn a_name_that_is_taken_is_a_conflict() {
    let config = Config { duplicate_names: DuplicateNames::Refuse, ..Config::default() };
    let organisation = Organisation::with(config, Limits::default()).await;
    let event_bridges = organisation.event_bridges();
    event_bridges.create(&desired()).await.unwrap();
    let error = event_bridges.create(&desired()).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict");
    assert!(error.to_string().contains("is already called"), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_nothing_was_sent() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    organisation.running.stop().await;
    let error = event_bridges.create(&desired()).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_created()), ("Unreachable", false));
    assert!(error.to_string().contains("Connection refused"), "{error}");
}
