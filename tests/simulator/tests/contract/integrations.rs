use std::time::Duration;

use genesys_simulator::{IntegrationState, PRESENCE_DEFINITIONS};
use reqwest::Method;
use serde_json::{Value, json};

use crate::organisation::{INTEGRATIONS, Organisation, json_of, properties};

async fn one(organisation: &Organisation, id: &str) -> Value {
    json_of(organisation.get(&format!("{INTEGRATIONS}/{id}?expand=config.current")).await).await
}

async fn create(organisation: &Organisation) -> String {
    let draft = json!({"integrationType": {"id": "amazon-eventbridge-source"}, "name": "a"});
    let created = organisation.send(Method::POST, INTEGRATIONS, &draft).await;
    assert_eq!(created.status(), 200);
    json_of(created).await["id"].as_str().unwrap().to_owned()
}

fn config(version: u64, suffix: &str) -> Value {
    json!({"name": suffix, "notes": "n", "version": version, "properties": properties(suffix), "advanced": {}})
}

async fn switch(organisation: &Organisation, id: &str, state: &str) -> Value {
    let (path, intended) = (format!("{INTEGRATIONS}/{id}"), json!({"intendedState": state}));
    json_of(organisation.send(Method::PATCH, &path, &intended).await).await
}

#[tokio::test]
async fn an_integration_is_created_configured_and_enabled() {
    let organisation = Organisation::start().await;
    let id = create(&organisation).await;
    let created = one(&organisation, &id).await;
    assert_eq!((&created["name"], &created["intendedState"]), (&json!("a"), &json!("DISABLED")));
    assert_eq!(created["reportedState"]["code"], "INACTIVE");
    assert_eq!(created["config"]["current"]["version"], 1);

    let path = format!("{INTEGRATIONS}/{id}/config/current");
    let configured = organisation.send(Method::PUT, &path, &config(1, "presence-a")).await;
    assert_eq!(configured.status(), 200);
    let read = json_of(organisation.get(&path).await).await;
    assert_eq!((&read["version"], &read["properties"]), (&json!(2), &properties("presence-a")));

    assert_eq!(switch(&organisation, &id, "ENABLED").await["reportedState"]["code"], "ACTIVE");
    let integration = organisation.simulator.integrations().pop().unwrap();
    let organisation_id = json_of(organisation.get("/api/v2/organizations/me").await).await["id"].clone();
    let source = format!("aws.partner/genesys.com/cloud/{}/presence-a", organisation_id.as_str().unwrap());
    assert_eq!(integration.event_source, Some(source));
    assert_eq!(switch(&organisation, &id, "DISABLED").await["reportedState"]["code"], "INACTIVE");
}

#[tokio::test]
async fn a_configuration_of_another_version_is_409() {
    let organisation = Organisation::start().await;
    let id = organisation.integrate("a").await;
    let path = format!("{INTEGRATIONS}/{id}/config/current");
    for version in [1, 3] {
        let answer = organisation.send(Method::PUT, &path, &config(version, "a")).await;
        assert_eq!(answer.status(), 409);
        let message = json_of(answer).await["message"].as_str().unwrap().to_owned();
        assert!(message.contains("does not match the current version"), "{message}");
    }
    assert_eq!(organisation.send(Method::PUT, &path, &config(2, "a")).await.status(), 200);
}

#[tokio::test]
async fn a_wrong_configuration_is_400_and_changes_nothing() {
    let organisation = Organisation::start().await;
    let id = organisation.integrate("a").await;
    organisation.integrate("b").await;
    let path = format!("{INTEGRATIONS}/{id}/config/current");
    let mut without_version = config(2, "a");
    without_version.as_object_mut().unwrap().remove("version");
    let mut wrong_account = config(2, "a");
    wrong_account["properties"]["awsAccountId"] = json!("1");
    for body in [without_version, wrong_account, config(2, "b")] {
        assert_eq!(organisation.send(Method::PUT, &path, &body).await.status(), 400, "{body}");
    }
    assert_eq!(json_of(organisation.get(&path).await).await["version"], 2);
}

#[tokio::test]
async fn integrations_are_listed_in_pages_by_type_state_and_id() {
    let organisation = Organisation::start().await;
    let mut ids = Vec::new();
    for suffix in ["a", "b", "c"] {
        ids.push(organisation.integrate(suffix).await);
    }
    switch(&organisation, &ids[1], "DISABLED").await;
    let list = async |query: &str| json_of(organisation.get(&format!("{INTEGRATIONS}?{query}")).await).await;
    let names = |page: &Value| {
        page["entities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };

    let first = list("integrationType=amazon-eventbridge-source&expand=config.current&pageSize=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!((&first["total"], &first["pageCount"]), (&json!(3), &json!(2)));
    assert_eq!(first["entities"][0]["config"]["current"]["properties"]["eventSourceSuffix"], "a");
    let next = first["nextUri"].as_str().unwrap();
    let second = json_of(organisation.get(next).await).await;
    assert_eq!(names(&second), ["c"]);
    assert!(second.get("nextUri").is_none() && second["entities"][0].get("config").is_none());

    assert_eq!(names(&list("reportedState=ACTIVE").await), ["a", "c"]);
    assert_eq!(names(&list(&format!("ids={},{}", ids[0], ids[1])).await), ["a", "b"]);
    assert!(names(&list("integrationType=another").await).is_empty());
    assert_eq!(organisation.get(&format!("{INTEGRATIONS}?pageNumber=0")).await.status(), 400);
}

#[tokio::test]
async fn enabling_takes_as_long_as_it_is_set() {
    let organisation =
        Organisation::with(|config| config.activation_delay = Duration::from_millis(300)).await;
    let id = organisation.integrate("a").await;
    assert_eq!(one(&organisation, &id).await["reportedState"]["code"], "ACTIVATING");
    while organisation.simulator.integrations()[0].state == IntegrationState::Activating {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(one(&organisation, &id).await["reportedState"]["code"], "ACTIVE");
}

#[tokio::test]
async fn an_injected_failure_is_reported_with_its_reason() {
    let organisation = Organisation::start().await;
    let id = organisation.integrate("a").await;
    let failure = json!({"reason": "the AWS account refuses the event source"});
    let set = organisation.send(Method::PUT, "/control/integrations/failure", &failure).await;
    assert_eq!(set.status(), 204);
    let reported = one(&organisation, &id).await["reportedState"].clone();
    assert_eq!(reported["code"], "ERROR");
    assert_eq!(reported["detail"]["message"], failure["reason"]);
    let shown = json_of(organisation.get("/control/integrations").await).await;
    assert_eq!((&shown[0]["state"], &shown[0]["reason"]), (&json!("ERROR"), &failure["reason"]));
    organisation.request(Method::DELETE, "/control/integrations/failure").send().await.unwrap();
    assert_eq!(one(&organisation, &id).await["reportedState"]["code"], "ACTIVE");
}

#[tokio::test]
async fn a_deleted_integration_is_404_a_moment_later() {
    let organisation = Organisation::with(|config| config.deletion_delay = Duration::from_millis(300)).await;
    let id = organisation.integrate("a").await;
    let path = format!("{INTEGRATIONS}/{id}");
    assert_eq!(organisation.request(Method::DELETE, &path).send().await.unwrap().status(), 200);
    assert_eq!(organisation.get(&path).await.status(), 200);
    assert!(organisation.simulator.integrations().iter().all(|i| i.state != IntegrationState::Active));
    while organisation.get(&path).await.status() == 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(organisation.get(&path).await.status(), 404);
    assert_eq!(organisation.request(Method::DELETE, &path).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn another_type_or_state_is_refused() {
    let organisation = Organisation::start().await;
    for draft in [json!({}), json!({"integrationType": {"id": "custom-smtp-server"}})] {
        let answer = organisation.send(Method::POST, INTEGRATIONS, &draft).await;
        assert_eq!(answer.status(), 400, "{draft}");
    }
    let id = create(&organisation).await;
    assert_eq!(switch(&organisation, &id, "DELETED").await["status"], 400);
    let unknown = format!("{INTEGRATIONS}/{}", PRESENCE_DEFINITIONS[0].id);
    assert_eq!(organisation.get(&unknown).await.status(), 404);
}

#[tokio::test]
async fn a_withheld_permission_is_403_and_named() {
    let organisation = Organisation::start().await;
    let id = organisation.integrate("a").await;
    let one = format!("{INTEGRATIONS}/{id}");
    let config_path = format!("{one}/config/current");
    let draft = json!({"integrationType": {"id": "amazon-eventbridge-source"}});
    for (permission, method, path, body) in [
        ("integrations:integration:view", Method::GET, INTEGRATIONS, json!(null)),
        ("integrations:integration:view", Method::GET, config_path.as_str(), json!(null)),
        ("integrations:integration:add", Method::POST, INTEGRATIONS, draft),
        ("integrations:integration:edit", Method::PATCH, one.as_str(), json!({"intendedState": "DISABLED"})),
        ("integrations:integration:edit", Method::PUT, config_path.as_str(), config(2, "a")),
        ("integrations:integration:delete", Method::DELETE, one.as_str(), json!(null)),
        ("presence:presenceDefinition:view", Method::GET, "/api/v2/presence/definitions", json!(null)),
    ] {
        let withheld = json!({"withheld": [permission]});
        organisation.send(Method::PUT, "/control/permissions", &withheld).await;
        let refused = organisation.send(method.clone(), path, &body).await;
        assert_eq!(refused.status(), 403, "{method} {path}");
        assert!(json_of(refused).await["message"].as_str().unwrap().contains(permission));
    }
    organisation.send(Method::PUT, "/control/permissions", &json!({"withheld": []})).await;
    assert_eq!(organisation.request(Method::DELETE, &one).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_schema_names_every_property() {
    let organisation = Organisation::start().await;
    let types = format!("{INTEGRATIONS}/types");
    let path = format!("{types}/amazon-eventbridge-source/configschemas/properties");
    let schema = json_of(organisation.get(&path).await).await;
    let required: Vec<_> =
        schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let properties = properties("a");
    let mut names: Vec<_> = properties.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut sorted = required.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, names);
    let another = organisation.get(&format!("{types}/another/configschemas/properties")).await;
    assert_eq!(another.status(), 404);
}

#[tokio::test]
async fn topics_show_what_is_asked_for() {
    const TOPICS: &str = "/api/v2/notifications/availabletopics";
    let organisation = Organisation::start().await;
    let bare = json_of(organisation.get(TOPICS).await).await;
    assert_eq!(bare["entities"][0], json!({"id": "v2.users.{id}.presence"}));
    let shown =
        json_of(organisation.get(&format!("{TOPICS}?expand=permissionDetails,transports")).await).await;
    let topic =
        |id: &str| shown["entities"].as_array().unwrap().iter().find(|topic| topic["id"] == id).cloned();
    let presence = topic("v2.users.{id}.presence").unwrap();
    assert_eq!(presence["transports"], json!(["All"]));
    assert!(presence["permissionDetails"][0]["permissions"][0].is_string());
    assert_eq!(topic("v2.users.{id}.station").unwrap()["transports"], json!(["Websocket"]));
    assert!(topic("v2.users.{id}.integrationpresence").is_none());
    let preview = json_of(organisation.get(&format!("{TOPICS}?includePreview=true")).await).await;
    let length = |list: &Value| list["entities"].as_array().unwrap().len();
    assert_eq!(length(&preview), length(&shown) + 1);
}

#[tokio::test]
async fn presence_definitions_have_the_organisations_own_names() {
    const DEFINITIONS: &str = "/api/v2/presence/definitions";
    let organisation = Organisation::start().await;
    let active = json_of(organisation.get(DEFINITIONS).await).await;
    let own = active["entities"].as_array().unwrap().iter().find(|d| d["name"] == "Coaching").unwrap();
    assert_eq!((&own["type"], &own["systemPresence"]), (&json!("User"), &json!("Training")));
    assert_eq!(own["deactivated"], false);
    let old = json_of(organisation.get(&format!("{DEFINITIONS}?deactivated=true")).await).await;
    assert_eq!((&old["total"], &old["entities"][0]["name"]), (&json!(1), &json!("Fax")));
    let listed = active["total"].as_u64().unwrap() + 1;
    assert_eq!(listed, PRESENCE_DEFINITIONS.len() as u64);
}
