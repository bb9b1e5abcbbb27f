//! The integrations with Amazon EventBridge: found, created, configured whatever their version, enabled, and deleted until
//! they are gone.

use std::time::Duration;

use genesys_simulator::{Config, IntegrationState};
use presenceroute_core::genesys_api::{IntegrationSpec, TokenRequest};
use presenceroute_genesys::{Access, DesiredIntegration, Integrations, Limits};
use serde_json::json;

use crate::organisation::Organisation;

const LIST: &str = "GET /api/v2/integrations";
const ORGANIZATION: &str = "GET /api/v2/organizations/me";
const TOPICS: &str = "GET /api/v2/notifications/availabletopics";
const SUFFIX: &str = "presence-contact-centre";

fn desired() -> DesiredIntegration {
    named(SUFFIX)
}

fn named(suffix: &str) -> DesiredIntegration {
    DesiredIntegration {
        spec: IntegrationSpec {
            name: suffix.to_owned(),
            event_source_suffix: suffix.to_owned(),
            aws_account_id: "123456789012".to_owned(),
            aws_region: "eu-west-1".to_owned(),
            topics: vec!["v2.users.{id}.presence".to_owned(), "v2.users.{id}.activity".to_owned()],
            enabled: true,
        },
        owner: "presence/contact-centre".to_owned(),
    }
}

/// As a real organisation is called: tokens by the login service.
fn access(organisation: &Organisation) -> Access {
    let access = organisation.access();
    Access {
        login_url: Some(access.api_url.clone()),
        token_path: "/oauth/token".to_owned(),
        token_request: TokenRequest::Form,
        ..access
    }
}

fn integrations(organisation: &Organisation) -> Integrations {
    organisation.genesys.client(access(organisation)).unwrap().integrations()
}

async fn set_up(integrations: &Integrations, desired: &DesiredIntegration) -> String {
    let created = integrations.create(&desired.spec.name).await.unwrap();
    integrations.configure(&created.id, desired).await.unwrap().unwrap();
    integrations.set_enabled(&created.id, desired.spec.enabled).await.unwrap().unwrap();
    created.id
}

#[tokio::test]
async fn an_integration_is_created_configured_and_enabled() {
    let organisation = Organisation::new().await;
    let integrations = integrations(&organisation);
    let created = integrations.create(SUFFIX).await.unwrap();
    assert!(created.is_kept_for("anybody"), "it has no event source yet");
    let found = integrations.find(SUFFIX, SUFFIX).await.unwrap();
    assert_eq!((found.entities.len(), found.pages), (1, 1), "a lost answer is found by its name");

    integrations.configure(&created.id, &desired()).await.unwrap().unwrap();
    let disabled = integrations.get(&created.id).await.unwrap().unwrap();
    let differences: Vec<_> = disabled.differences(&desired().spec).iter().map(ToString::to_string).collect();
    assert_eq!(differences, ["intendedState"]);
    integrations.set_enabled(&created.id, true).await.unwrap().unwrap();

    let found = integrations.find(SUFFIX, "another name").await.unwrap().entities;
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(found.differences(&desired().spec), []);
    assert!(found.is_kept_for("presence/contact-centre") && !found.is_kept_for("presence/other"));
    assert_eq!(found.reported_state.as_ref().unwrap().code, "ACTIVE");
    let [there] = organisation.simulator.integrations().try_into().unwrap();
    assert_eq!(there.state, IntegrationState::Active);
    assert_eq!(there.event_source.unwrap(), integrations.event_source_name(SUFFIX).await.unwrap());
    assert_eq!(integrations.find("other", "other").await.unwrap().entities, []);
}

#[tokio::test]
async fn an_integration_is_found_among_many_pages() {
    let organisation =
        Organisation::with(Config { page_size_cap: 2, ..Config::default() }, Limits::default()).await;
    let integrations = integrations(&organisation);
    for number in 0..7 {
        set_up(&integrations, &named(&format!("suffix-{number}"))).await;
    }
    let found = integrations.find("suffix-5", "suffix-5").await.unwrap();
    assert_eq!((found.entities.len(), found.pages), (1, 4));
    assert_eq!(found.entities[0].event_source_suffix(), "suffix-5");
}

#[tokio::test]
async fn a_configuration_is_written_whatever_version_it_has() {
    let organisation = Organisation::new().await;
    let integrations = integrations(&organisation);
    let id = set_up(&integrations, &desired()).await;
    // Two write at once, again and again: each reads the other's version and goes on.
    let mut other = desired();
    other.spec.topics.pop();
    for _ in 0..5 {
        let (wide, narrow) = (desired(), other.clone());
        let (one, two) =
            tokio::join!(integrations.configure(&id, &wide), integrations.configure(&id, &narrow));
        assert!(one.unwrap().is_some() && two.unwrap().is_some());
    }
    let [there] = organisation.simulator.integrations().try_into().unwrap();
    assert_eq!(there.config_version, 12, "every write counts, and no other");
}

#[tokio::test]
async fn a_refusal_that_is_not_of_the_version_is_not_repeated() {
    let organisation = Organisation::new().await;
    let integrations = integrations(&organisation);
    let id = set_up(&integrations, &desired()).await;
    let put = "PUT /api/v2/integrations/{id}/config/current";
    for (status, reason, calls) in [(409, "Conflict", 2), (400, "InvalidRequest", 1), (403, "Forbidden", 1)] {
        organisation.set_faults(json!([{
            "match": {"method": "PUT", "path": "/api/v2/integrations"},
            "do": {"status": status, "body": {"code": "no", "message": "no"}},
        }]));
        let before = organisation.calls(put);
        let error = integrations.configure(&id, &desired()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert_eq!(organisation.calls(put) - before, calls, "{status}");
    }
}

#[tokio::test]
async fn a_deletion_waits_until_the_integration_is_gone() {
    let config = Config { deletion_delay: Duration::from_millis(700), ..Config::default() };
    let organisation = Organisation::with(config, Limits::default()).await;
    let integrations = integrations(&organisation);
    let id = set_up(&integrations, &desired()).await;
    integrations.delete(&id).await.unwrap();
    assert!(organisation.simulator.integrations().is_empty());
    assert_eq!(integrations.get(&id).await.unwrap(), None);
    integrations.delete(&id).await.unwrap();
    assert_eq!(integrations.configure(&id, &desired()).await.unwrap(), None);
    assert_eq!(integrations.set_enabled(&id, true).await.unwrap(), None);
}

#[tokio::test]
async fn a_deletion_that_takes_no_effect_is_an_error() {
    let config = Config { deletion_delay: Duration::from_secs(3600), ..Config::default() };
    let organisation = Organisation::with(config, Limits::default()).await;
    let integrations = integrations(&organisation);
    let id = set_up(&integrations, &desired()).await;
    let deletion = tokio::spawn(async move { integrations.delete(&id).await });
    // Time passes while it waits, and not so fast that a request could not be answered in its time.
    while !deletion.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::time::resume();
    }
    let error = deletion.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("still there 30 s after its deletion"), "{error}");
}

#[tokio::test]
async fn a_state_of_error_comes_with_its_reason() {
    let organisation = Organisation::new().await;
    let integrations = integrations(&organisation);
    let id = set_up(&integrations, &desired()).await;
    organisation.simulator.fail_integrations(Some("the AWS account does not exist".to_owned()));
    let state = integrations.get(&id).await.unwrap().unwrap().reported_state.unwrap();
    assert_eq!(
        (state.code.as_str(), state.detail.as_deref()),
        ("ERROR", Some("the AWS account does not exist"))
    );
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let organisation = Organisation::new().await;
    let integrations = integrations(&organisation);
    let id = set_up(&integrations, &desired()).await;
    let withhold = |permission: &str| {
        organisation.simulator.withhold_permissions([format!("integrations:integration:{permission}")]);
    };
    withhold("add");
    let add = integrations.create(SUFFIX).await.unwrap_err();
    withhold("edit");
    let edit = integrations.configure(&id, &desired()).await.unwrap_err();
    withhold("delete");
    let delete = integrations.delete(&id).await.unwrap_err();
    withhold("view");
    let view = integrations.find(SUFFIX, SUFFIX).await.unwrap_err();
    for (permission, error) in [("add", add), ("edit", edit), ("delete", delete), ("view", view)] {
        assert_eq!(error.reason(), "Forbidden", "{error}");
        assert!(error.to_string().contains(&format!("integrations:integration:{permission}")), "{error}");
    }
}

#[tokio::test]
async fn what_never_changes_is_asked_once() {
    let organisation = Organisation::new().await;
    for _ in 0..3 {
        let integrations = integrations(&organisation);
        let name = integrations.event_source_name(SUFFIX).await.unwrap();
        assert!(
            name.starts_with("aws.partner/genesys.com/cloud/") && name.ends_with("/presence-contact-centre")
        );
        assert_eq!(integrations.unavailable_topics(&desired().spec.topics).await.unwrap(), []);
    }
    let unknown = integrations(&organisation).unavailable_topics(&["v2.users.{id}.wrong".to_owned()]).await;
    assert_eq!(
        unknown.unwrap()[0].to_string(),
        "v2.users.{id}.wrong is not among the notification topics that Genesys Cloud lists"
    );
    assert_eq!((organisation.calls(ORGANIZATION), organisation.calls(TOPICS)), (1, 1));
    assert_eq!(organisation.calls(LIST), 0);
}
