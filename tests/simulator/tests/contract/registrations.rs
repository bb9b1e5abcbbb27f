use genesys_simulator::{CreatedStatus, DuplicateNames};
use reqwest::Method;
use serde_json::{Value, json};

use crate::organisation::{EVENT_BRIDGES, Organisation, SECRET, draft, draft_with, json_of};

const URL: &str = "https://presence.example.com/eventbridge/presence";

async fn names(organisation: &Organisation, query: &str) -> (Vec<String>, Value) {
    let page = json_of(organisation.get(&format!("{EVENT_BRIDGES}?{query}")).await).await;
    let entities = page["entities"].as_array().unwrap();
    (entities.iter().map(|entity| entity["name"].as_str().unwrap().to_owned()).collect(), page.clone())
}

#[tokio::test]
async fn a_created_registration_is_read_without_its_secret() {
    let organisation = Organisation::start().await;
    let answer = organisation.send(Method::POST, EVENT_BRIDGES, &draft("a", URL)).await;
    assert_eq!(answer.status(), 201);
    let created = json_of(answer).await;
    let read =
        json_of(organisation.get(&format!("{EVENT_BRIDGES}/{}", created["id"].as_str().unwrap())).await)
            .await;
    assert_eq!(read, created);
    let mut wanted = draft("a", URL);
    wanted.as_object_mut().unwrap().remove("secret");
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&read[field], value, "{field}");
    }
    assert_eq!(read["version"], 1);
    assert!(read["createdDate"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn an_organisation_may_answer_a_creation_with_200() {
    let organisation = Organisation::with(|config| config.created_status = CreatedStatus::Ok).await;
    assert_eq!(organisation.send(Method::POST, EVENT_BRIDGES, &draft("a", URL)).await.status(), 200);
}

#[tokio::test]
async fn a_page_is_no_larger_than_the_server_allows() {
    let organisation = Organisation::with(|config| config.page_size_cap = 3).await;
    for number in 1..=7 {
        organisation.register(&draft(&format!("r{number}"), URL)).await;
    }
    let (first, page) = names(&organisation, "pageNumber=1&pageSize=100").await;
    assert_eq!(first, ["r1", "r2", "r3"]);
    assert_eq!((&page["pageSize"], &page["total"], &page["pageCount"]), (&json!(3), &json!(7), &json!(3)));
    assert_eq!(names(&organisation, "pageNumber=2&pageSize=100").await.0, ["r4", "r5", "r6"]);
    assert_eq!(names(&organisation, "pageNumber=3&pageSize=100").await.0, ["r7"]);
    assert!(names(&organisation, "pageNumber=4&pageSize=100").await.0.is_empty());
}

#[tokio::test]
async fn a_name_is_found_exactly() {
    let organisation = Organisation::start().await;
    for name in ["presence/a", "presence/ab", "presence/a"] {
        organisation.register(&draft(name, URL)).await;
    }
    assert_eq!(names(&organisation, "name=presence%2Fa").await.0, ["presence/a", "presence/a"]);
    assert_eq!(names(&organisation, "name=presence").await.1["pageCount"], 0);
}

#[tokio::test]
async fn pages_count_from_1() {
    let organisation = Organisation::start().await;
    for query in ["pageNumber=0", "pageSize=0", "pageSize=many"] {
        assert_eq!(organisation.get(&format!("{EVENT_BRIDGES}?{query}")).await.status(), 400, "{query}");
    }
}

#[tokio::test]
async fn a_replacement_without_a_secret_keeps_the_old_one() {
    let organisation = Organisation::start().await;
    let id = organisation.register(&draft("a", URL)).await;
    let before = organisation.simulator.registrations()[0].secret_fingerprint();
    let mut changed = draft_with("a", URL, "enabled", json!(false));
    changed.as_object_mut().unwrap().remove("secret");
    let answer = organisation.send(Method::PUT, &format!("{EVENT_BRIDGES}/{id}"), &changed).await;
    assert_eq!(answer.status(), 200);
    let after = &organisation.simulator.registrations()[0];
    assert_eq!((after.enabled, after.version), (false, 2));
    assert_eq!(after.secret_fingerprint(), before);
}

#[tokio::test]
async fn a_replacement_with_a_secret_changes_the_fingerprint() {
    let organisation = Organisation::start().await;
    let id = organisation.register(&draft("a", URL)).await;
    let changed = draft_with("a", URL, "secret", json!("another"));
    organisation.send(Method::PUT, &format!("{EVENT_BRIDGES}/{id}"), &changed).await;
    assert_eq!(
        organisation.simulator.registrations()[0].secret_fingerprint(),
        genesys_simulator::fingerprint(&"another".into()),
    );
}

#[tokio::test]
async fn a_deleted_registration_is_gone() {
    let organisation = Organisation::start().await;
    let id = organisation.register(&draft("a", URL)).await;
    let path = format!("{EVENT_BRIDGES}/{id}");
    assert_eq!(organisation.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(organisation.request(method, &path).send().await.unwrap().status(), 404);
    }
    assert_eq!(organisation.send(Method::PUT, &path, &draft("a", URL)).await.status(), 404);
}

#[tokio::test]
async fn a_missing_field_is_named() {
    let organisation = Organisation::start().await;
    for field in ["name", "type", "enabled", "url", "secret", "eventTypes", "retryPolicy"] {
        let mut draft = draft("a", URL);
        draft.as_object_mut().unwrap().remove(field);
        let answer = organisation.send(Method::POST, EVENT_BRIDGES, &draft).await;
        assert_eq!(answer.status(), 400, "{field}");
        assert!(json_of(answer).await["message"].as_str().unwrap().contains(field));
    }
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let organisation = Organisation::start().await;
    for (field, wrong) in [
        ("name", json!("")),
        ("type", json!("EMAIL")),
        ("enabled", json!("true")),
        ("url", json!("presence.example.com")),
        ("url", json!("ftp://presence.example.com")),
        ("secret", json!("")),
        ("eventTypes", json!([])),
        ("eventTypes", json!(["presence:*"])),
        ("retryPolicy", json!({"maxRetries": 3})),
        ("retryPolicy", json!({"maxRetries": -1, "backoffMultiplier": 2})),
        ("retryPolicy", json!({"maxRetries": 3, "backoffMultiplier": 0.5})),
    ] {
        let draft = draft_with("a", URL, field, wrong.clone());
        let answer = organisation.send(Method::POST, EVENT_BRIDGES, &draft).await;
        assert_eq!(answer.status(), 400, "{field}: {wrong}");
        assert!(json_of(answer).await["message"].as_str().unwrap().contains(field), "{field}: {wrong}");
    }
    assert!(organisation.simulator.registrations().is_empty());
}

#[tokio::test]
async fn what_is_not_json_is_400() {
    let organisation = Organisation::start().await;
    let request = organisation
        .request(Method::POST, EVENT_BRIDGES)
        .header("content-type", "application/json")
        .body(format!("{{\"secret\": \"{SECRET}\""));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(json_of(answer).await["code"], "bad.request");
}

#[tokio::test]
async fn a_name_can_be_used_twice_unless_that_is_refused() {
    let allowing = Organisation::start().await;
    allowing.register(&draft("a", URL)).await;
    allowing.register(&draft("a", URL)).await;
    assert_eq!(allowing.simulator.registrations().len(), 2);

    let refusing = Organisation::with(|config| config.duplicate_names = DuplicateNames::Refuse).await;
    let id = refusing.register(&draft("a", URL)).await;
    assert_eq!(refusing.send(Method::POST, EVENT_BRIDGES, &draft("a", URL)).await.status(), 409);
    let own_name = refusing.send(Method::PUT, &format!("{EVENT_BRIDGES}/{id}"), &draft("a", URL)).await;
    assert_eq!(own_name.status(), 200);
}

#[tokio::test]
async fn an_unknown_path_or_method_is_answered_in_the_usual_shape() {
    let organisation = Organisation::start().await;
    let unknown = organisation.get("/api/v2/users").await;
    assert_eq!(unknown.status(), 404);
    assert_eq!(json_of(unknown).await["code"], "not.found");
    let method = organisation.request(Method::PATCH, EVENT_BRIDGES).send().await.unwrap();
    assert_eq!(method.status(), 405);
    assert!(method.headers()["allow"].to_str().unwrap().contains("POST"));
    assert_eq!(json_of(method).await["status"], 405);
}
