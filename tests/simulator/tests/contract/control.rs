use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::endpoint::Endpoint;
use crate::organisation::{EVENT_BRIDGES, Organisation, draft, json_of};

#[tokio::test]
async fn a_run_is_started_awaited_and_read_event_by_event() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    let registration = organisation.register(&draft("a", &endpoint.url)).await;
    let started = organisation.send(Method::POST, "/control/deliveries", &json!({"count": 6})).await;
    assert_eq!(started.status(), 202);
    let path = format!("/control/deliveries/{}", json_of(started).await["id"].as_str().unwrap());

    let summary = json_of(organisation.get(&format!("{path}?waitSeconds=30")).await).await;
    assert_eq!(summary["state"], "done");
    assert_eq!(summary["outcomes"], json!({"delivered": 6, "dropped": 0, "exhausted": 0, "abandoned": 0}));
    assert_eq!(summary["statuses"], json!({"200": 6}));
    assert_eq!(summary["eventTypes"]["presence:state:changed"], 3);
    assert!(summary["latencyMs"]["p99"].as_f64().unwrap() > 0.0);

    let events = json_of(organisation.get(&format!("{path}/events?bodies=true")).await).await;
    assert_eq!(events.as_array().unwrap().len(), 6);
    for event in events.as_array().unwrap() {
        let body = BASE64.decode(event["body"].as_str().unwrap()).unwrap();
        assert_eq!(event["bodySha256"], hex::encode(Sha256::digest(&body)));
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["id"], event["id"]);
        assert_eq!(event["registrationId"], registration);
        assert_eq!(event["attempts"][0]["status"], 200);
    }
}

#[tokio::test]
async fn events_are_returned_as_lines_on_request() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let delivery = organisation.simulator.deliver(serde_json::from_str(r#"{"count": 3}"#).unwrap()).unwrap();
    delivery.finished().await;
    let path = format!("/control/deliveries/{}/events", delivery.id());
    let request = organisation.request(Method::GET, &path).header("accept", "application/x-ndjson");
    let text = request.send().await.unwrap().text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.get("body").is_none()));
    let dropped = json_of(organisation.get(&format!("{path}?outcome=dropped")).await).await;
    assert_eq!(dropped, json!([]));
}

#[tokio::test]
async fn an_invalid_plan_is_refused() {
    let organisation = Organisation::start().await;
    for (plan, status) in [
        (json!({"cuont": 1}), 400),
        (json!({"count": 0}), 400),
        (json!({"signWith": "x"}), 400),
        (json!({}), 409),
    ] {
        let answer = organisation.send(Method::POST, "/control/deliveries", &plan).await;
        assert_eq!(answer.status(), status, "{plan}");
    }
}

#[tokio::test]
async fn requests_are_counted_with_their_client() {
    let organisation = Organisation::start().await;
    organisation.register(&draft("a", "http://127.0.0.1:9/")).await;
    organisation.get(EVENT_BRIDGES).await;
    organisation.get("/control/health").await;
    let log = json_of(organisation.get("/control/requests").await).await;
    assert_eq!(log["counts"]["total"], 3);
    assert_eq!(log["counts"]["byRoute"]["POST /api/v2/oauth/token"], 1);
    assert_eq!(log["counts"]["byStatus"], json!({"200": 2, "201": 1}));
    let last = &log["requests"][2];
    assert_eq!(
        (&last["method"], &last["status"], &last["client"]),
        (&json!("GET"), &json!(200), &json!("client"))
    );
    assert_eq!(log["requests"][0]["client"], "client");
    let later = json_of(organisation.get("/control/requests?since=2").await).await;
    assert_eq!(later["requests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_reset_forgets_everything() {
    let organisation = Organisation::start().await;
    let endpoint = Endpoint::answering([200]).await;
    organisation.register(&draft("a", &endpoint.url)).await;
    let run = organisation.simulator.deliver(serde_json::from_str("{}").unwrap()).unwrap();
    organisation.send(Method::PUT, "/control/faults", &json!([{"do": {"garbage": true}}])).await;
    assert_eq!(organisation.request(Method::POST, "/control/reset").send().await.unwrap().status(), 204);
    run.finished().await;
    for list in ["/control/registrations", "/control/deliveries", "/control/faults"] {
        assert_eq!(json_of(organisation.get(list).await).await, json!([]), "{list}");
    }
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 401);
    assert_eq!(organisation.simulator.request_counts().total, 1);
}

#[tokio::test]
async fn tokens_expire_on_request() {
    let organisation = Organisation::start().await;
    let answer = organisation.request(Method::POST, "/control/tokens/expire").send().await.unwrap();
    assert_eq!(json_of(answer).await, json!({"expired": 1}));
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 401);
}

#[tokio::test]
async fn health_is_ok() {
    let organisation = Organisation::start().await;
    assert_eq!(json_of(organisation.get("/control/health").await).await["status"], "ok");
    assert_eq!(organisation.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn the_control_api_can_have_its_own_address() {
    let simulator = genesys_simulator::Simulator::new(genesys_simulator::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        control_listen: Some("127.0.0.1:0".parse().unwrap()),
        ..genesys_simulator::Config::default()
    })
    .unwrap();
    let running = simulator.start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (address, path, status) in [
        (running.address(), "/control/health", 404),
        (running.address(), "/livez", 200),
        (running.control_address(), "/control/health", 200),
        (running.control_address(), EVENT_BRIDGES, 404),
    ] {
        let answer = http.get(format!("http://{address}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{address}{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn paths_differ_where_an_organisation_has_them_elsewhere() {
    let organisation =
        Organisation::with(|config| config.event_bridges_path = "/platform/bridges".to_owned()).await;
    assert_eq!(organisation.get("/platform/bridges").await.status(), 200);
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 404);
}
