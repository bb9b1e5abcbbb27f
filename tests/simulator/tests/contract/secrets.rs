use reqwest::Method;
use serde_json::json;

use crate::endpoint::Endpoint;
use crate::organisation::{EVENT_BRIDGES, Organisation, SECRET, draft, draft_with};

#[tokio::test]
async fn no_answer_ever_contains_a_secret() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    let id = organisation.register(&draft("a", &endpoint.url)).await;
    let one = format!("{EVENT_BRIDGES}/{id}");
    let wrong = draft_with("a", &endpoint.url, "eventTypes", json!(SECRET));

    let mut answers = Vec::new();
    for (method, path, body) in [
        (Method::POST, EVENT_BRIDGES, &draft("b", &endpoint.url)),
        (Method::POST, EVENT_BRIDGES, &wrong),
        (Method::PUT, &one, &draft("a", &endpoint.url)),
        (Method::PUT, &one, &wrong),
        (Method::POST, "/control/deliveries", &json!({"count": 1, "signWith": {"secret": SECRET}})),
        (Method::POST, "/control/deliveries", &json!({"count": 1, "signWith": {"secrets": SECRET}})),
    ] {
        answers.push(organisation.send(method, path, body).await.text().await.unwrap());
    }
    let runs = organisation.simulator.deliveries();
    runs[0].finished().await;
    let events = format!("/control/deliveries/{}/events?bodies=true", runs[0].id());
    for path in
        [EVENT_BRIDGES, &one, "/control/registrations", "/control/requests", "/control/deliveries", &events]
    {
        answers.push(organisation.get(path).await.text().await.unwrap());
    }
    for answer in answers {
        assert!(!answer.is_empty());
        assert!(!answer.contains(SECRET), "{answer}");
    }
    assert!(
        !format!("{:?} {:?}", organisation.simulator, organisation.simulator.registrations())
            .contains(SECRET)
    );
}
