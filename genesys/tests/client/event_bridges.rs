//! Registrations: created, found, changed and deleted, whatever pages the server gives.

use genesys_simulator::Config;
use presenceroute_genesys::{Access, DesiredRegistration, Difference, Limits};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::organisation::{LISTINGS, NAME, Organisation, desired, named};

#[tokio::test]
async fn a_registration_is_created_found_changed_and_deleted() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();

    assert_eq!(event_bridges.find_by_name(NAME).await.unwrap().entities, []);
    let created = event_bridges.create(&desired()).await.unwrap();
    assert_eq!(created.differences(&desired()), []);
    assert_eq!(event_bridges.find_by_name(NAME).await.unwrap().entities, std::slice::from_ref(&created));
    assert_eq!(event_bridges.get(&created.id).await.unwrap().as_ref(), Some(&created));

    let mut suspended = desired();
    suspended.spec.enabled = false;
    assert_eq!(created.differences(&suspended), [Difference::Enabled]);
    let updated = event_bridges.update(&created.id, &suspended).await.unwrap().unwrap();
    assert_eq!((updated.id.as_str(), updated.differences(&suspended)), (created.id.as_str(), vec![]));

    event_bridges.delete(&created.id).await.unwrap();
    assert!(organisation.simulator.registrations().is_empty());
}

#[tokio::test]
async fn a_registration_that_is_gone_is_none_and_can_be_deleted() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    let id = event_bridges.create(&desired()).await.unwrap().id;
    event_bridges.delete(&id).await.unwrap();

    assert_eq!(event_bridges.get(&id).await.unwrap(), None);
    assert_eq!(event_bridges.update(&id, &desired()).await.unwrap(), None);
    event_bridges.delete(&id).await.unwrap();
}

#[tokio::test]
async fn an_update_brings_a_new_secret() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    let id = event_bridges.create(&desired()).await.unwrap().id;
    let rotated = DesiredRegistration { secret: SecretString::from("the-next-secret"), ..desired() };
    event_bridges.update(&id, &rotated).await.unwrap().unwrap();
    let held = organisation.simulator.registrations()[0].secret_fingerprint();
    assert_eq!(held, genesys_simulator::fingerprint(&SecretString::from("the-next-secret")));
}

#[tokio::test]
async fn paths_can_be_others() {
    let config = Config {
        token_path: "/oauth/token".to_owned(),
        event_bridges_path: "/bridges".to_owned(),
        ..Config::default()
    };
    let organisation = Organisation::with(config, Limits::default()).await;
    let access = Access {
        token_path: "/oauth/token".to_owned(),
        event_bridges_path: "/bridges".to_owned(),
        ..organisation.access()
    };
    organisation.genesys.client(access).unwrap().event_bridges().create(&desired()).await.unwrap();
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_found_by_its_name() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    for fault in [json!({"cutConnection": "after"}), json!({"garbage": true}), json!({"noId": true})] {
        organisation.suffers(fault);
        assert!(event_bridges.create(&desired()).await.unwrap_err().may_have_created());
        organisation.set_faults(json!([]));
        let found = event_bridges.find_by_name(NAME).await.unwrap().entities;
        assert_eq!(found.len(), 1);
        event_bridges.delete(&found[0].id).await.unwrap();
    }
}

#[tokio::test]
async fn a_name_is_found_through_small_pages() {
    let small_pages = Config { page_size_cap: 2, ..Config::default() };
    let organisation = Organisation::with(small_pages, Limits::default()).await;
    let event_bridges = organisation.event_bridges();
    for _ in 0..5 {
        event_bridges.create(&desired()).await.unwrap();
    }
    event_bridges.create(&named("presence/contact-centre-2")).await.unwrap();

    assert_eq!(event_bridges.find_by_name(NAME).await.unwrap().entities.len(), 5);
    assert_eq!(organisation.calls(LISTINGS), 3);
}

#[tokio::test]
async fn a_server_that_ignores_the_name_is_asked_for_every_page() {
    let organisation = Organisation::new().await;
    // Each page as a server without totals gives them, with an entity of another kind among the others.
    let page = |entities: Value| json!({"status": 200, "body": {"entities": entities}});
    organisation.set_faults(json!([
        {"match": {"method": "GET", "nth": 1}, "do": page(json!([{"id": "1", "name": "x"}, {"url": 7, "name": "y"}]))},
        {"match": {"method": "GET", "nth": 2}, "do": page(json!([{"id": "2", "name": NAME}]))},
        {"match": {"method": "GET", "nth": 3}, "do": page(json!([]))},
    ]));
    let found = organisation.event_bridges().find_by_name(NAME).await.unwrap().entities;
    assert_eq!(found.iter().map(|registration| registration.id.as_str()).collect::<Vec<_>>(), ["2"]);
    assert_eq!(organisation.calls(LISTINGS), 3);
}

#[tokio::test]
async fn a_server_that_repeats_its_only_page_is_asked_twice() {
    let organisation = Organisation::new().await;
    organisation.suffers(json!({"status": 200, "body": {"entities": [{"id": "1", "name": NAME}]}}));
    assert_eq!(organisation.event_bridges().find_by_name(NAME).await.unwrap().entities.len(), 1);
    assert_eq!(organisation.calls(LISTINGS), 2);
}

#[tokio::test]
async fn a_list_without_end_is_given_up() {
    let organisation = Organisation::new().await;
    organisation.suffers(json!({"status": 200, "body": {"entities": [], "pageCount": 1_000_000}}));
    let error = organisation.event_bridges().find_by_name(NAME).await.unwrap_err();
    assert_eq!(error.reason(), "UnexpectedAnswer");
    assert_eq!(organisation.calls(LISTINGS), 100);
}
