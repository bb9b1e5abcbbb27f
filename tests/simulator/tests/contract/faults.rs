use reqwest::Method;
use serde_json::{Value, json};

use crate::organisation::{EVENT_BRIDGES, Organisation, draft, json_of};

const URL: &str = "https://presence.example.com/eventbridge/presence";

async fn organisation_with(rules: Value) -> Organisation {
    let organisation = Organisation::start().await;
    let answer = organisation.send(Method::PUT, "/control/faults", &rules).await;
    assert_eq!(answer.status(), 200);
    organisation
}

fn creation(organisation: &Organisation) -> reqwest::RequestBuilder {
    organisation.request(Method::POST, EVENT_BRIDGES).json(&draft("a", URL))
}

#[tokio::test]
async fn a_connection_cut_after_the_work_leaves_one_registration() {
    let organisation =
        organisation_with(json!([{"match": {"method": "POST", "nth": 1}, "do": {"cutConnection": "after"}}]))
            .await;
    let error = creation(&organisation).send().await.unwrap_err();
    assert!(error.is_request(), "{error:?}");
    assert_eq!(organisation.simulator.registrations().len(), 1);

    let record = organisation.simulator.requests(0).pop().unwrap();
    assert_eq!((record.status, record.cut), (None, true));
}

#[tokio::test]
async fn a_connection_cut_before_the_work_leaves_none() {
    let organisation = organisation_with(
        json!([{"match": {"method": "POST", "nth": 1}, "do": {"cutConnection": "before"}}]),
    )
    .await;
    assert!(creation(&organisation).send().await.is_err());
    assert!(organisation.simulator.registrations().is_empty());
    assert_eq!(creation(&organisation).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_late_answer_finds_the_work_done() {
    let organisation = organisation_with(json!([{"do": {"delayMs": 60_000, "delayAt": "after"}}])).await;
    let work_is_done = async {
        while organisation.simulator.registrations().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    // The client gives up as soon as the work is done, a minute before the answer.
    tokio::select! {
        answer = creation(&organisation).send() => panic!("{answer:?}"),
        () = work_is_done => {}
    }
    assert_eq!(organisation.simulator.registrations().len(), 1);
}

#[tokio::test]
async fn a_status_can_have_a_body_and_retry_after() {
    let organisation = organisation_with(json!([
        {"match": {"times": 1}, "do": {"status": 429, "retryAfter": 7}},
        {"match": {"nth": 2}, "do": {"status": 502, "body": {"odd": true}}},
    ]))
    .await;
    let first = creation(&organisation).send().await.unwrap();
    assert_eq!(first.status(), 429);
    assert_eq!(first.headers()["retry-after"], "7");
    assert_eq!(json_of(first).await["code"], "too.many.requests");
    let second = creation(&organisation).send().await.unwrap();
    assert_eq!(second.status(), 502);
    assert_eq!(json_of(second).await, json!({"odd": true}));
    assert_eq!(creation(&organisation).send().await.unwrap().status(), 201);
    assert_eq!(organisation.simulator.registrations().len(), 1);
}

#[tokio::test]
async fn garbage_is_a_200_that_is_not_json() {
    let organisation = organisation_with(json!([{"do": {"garbage": true}}])).await;
    let answer = creation(&organisation).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(serde_json::from_str::<Value>(&answer.text().await.unwrap()).is_err());
}

#[tokio::test]
async fn no_id_is_a_200_with_everything_else() {
    let organisation = organisation_with(json!([{"do": {"noId": true}}])).await;
    let answer = creation(&organisation).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let created = json_of(answer).await;
    assert!(created.get("id").is_none());
    assert_eq!(created["name"], "a");
    let list = json_of(organisation.get(EVENT_BRIDGES).await).await;
    assert!(list["entities"][0].get("id").is_none());
}

#[tokio::test]
async fn a_server_that_knows_only_post_answers_405_to_the_rest() {
    let organisation = organisation_with(json!([{"do": {"readOnly": true}}])).await;
    let id = organisation.register(&draft("a", URL)).await;
    let one = format!("{EVENT_BRIDGES}/{id}");
    for (method, path) in [
        (Method::GET, EVENT_BRIDGES),
        (Method::GET, one.as_str()),
        (Method::PUT, one.as_str()),
        (Method::DELETE, one.as_str()),
    ] {
        let answer = organisation.request(method, path).send().await.unwrap();
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], "POST");
    }
}

#[tokio::test]
async fn rules_count_what_they_do_and_end_when_deleted() {
    let organisation =
        organisation_with(json!([{"match": {"path": EVENT_BRIDGES, "nth": 2}, "do": {"status": 500}}])).await;
    for status in [200, 500, 200] {
        assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), status);
    }
    let rules = json_of(organisation.get("/control/faults").await).await;
    assert_eq!((&rules[0]["seen"], &rules[0]["applied"]), (&json!(3), &json!(1)));
    let deleted = organisation.request(Method::DELETE, "/control/faults").send().await.unwrap();
    assert_eq!(deleted.status(), 204);
    assert!(organisation.simulator.faults().is_empty());
}

#[tokio::test]
async fn an_empty_rule_is_refused_and_the_old_ones_stay() {
    let organisation = organisation_with(json!([{"do": {"status": 500}}])).await;
    let refused = organisation.send(Method::PUT, "/control/faults", &json!([{"do": {}}])).await;
    assert_eq!(refused.status(), 400);
    assert!(json_of(refused).await["message"].as_str().unwrap().contains("at least one of"));
    assert_eq!(organisation.simulator.faults().len(), 1);
}
