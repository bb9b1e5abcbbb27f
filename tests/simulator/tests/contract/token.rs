use std::time::Duration;

use genesys_simulator::OauthClient;
use reqwest::Method;
use serde_json::{Value, json};

use crate::organisation::{EVENT_BRIDGES, Organisation, json_of};

const PATH: &str = "/api/v2/oauth/token";

fn assert_is_token(answer: &Value) {
    assert_eq!(answer["token_type"], "bearer");
    assert!(!answer["access_token"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn a_token_says_how_long_it_may_be_cached() {
    let organisation = Organisation::with(|config| config.token_lifetime = Duration::from_secs(120)).await;
    let credentials = json!({"grant_type": "client_credentials", "client_id": "a", "client_secret": "b"});
    let answer = json_of(organisation.send(Method::POST, PATH, &credentials).await).await;
    assert_is_token(&answer);
    assert_eq!(answer["expires_in"], 120);
    assert!(answer["scope"].is_string());
}

#[tokio::test]
async fn a_form_gets_a_token_with_the_client_in_its_body() {
    let organisation = Organisation::start().await;
    let form = [("grant_type", "client_credentials"), ("client_id", "a"), ("client_secret", "b")];
    let answer = organisation.http.post(organisation.url(PATH)).form(&form).send().await.unwrap();
    assert_is_token(&json_of(answer).await);
}

#[tokio::test]
async fn a_form_gets_a_token_with_basic_credentials() {
    let organisation = Organisation::with(|config| {
        config.client = Some(OauthClient { id: "a".to_owned(), secret: "b:c".into() });
    })
    .await;
    let form = [("grant_type", "client_credentials")];
    let request = organisation.http.post(organisation.url(PATH)).basic_auth("a", Some("b:c")).form(&form);
    assert_is_token(&json_of(request.send().await.unwrap()).await);
}

#[tokio::test]
async fn the_login_service_takes_a_form_with_basic_credentials_only() {
    const LOGIN: &str = "/oauth/token";
    let organisation = Organisation::with(|config| {
        config.client = Some(OauthClient { id: "a".to_owned(), secret: "b".into() });
    })
    .await;
    let form = [("grant_type", "client_credentials")];
    let login = || organisation.http.post(organisation.url(LOGIN));
    let good = login().basic_auth("a", Some("b")).form(&form).send().await.unwrap();
    assert_is_token(&json_of(good).await);
    assert_eq!(login().basic_auth("a", Some("x")).form(&form).send().await.unwrap().status(), 401);
    let in_the_body = [("grant_type", "client_credentials"), ("client_id", "a"), ("client_secret", "b")];
    assert_eq!(login().form(&in_the_body).send().await.unwrap().status(), 401);
    let json = json!({"grant_type": "client_credentials", "client_id": "a", "client_secret": "b"});
    assert_eq!(login().basic_auth("a", Some("b")).json(&json).send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn a_missing_field_is_named() {
    let organisation = Organisation::start().await;
    let whole = json!({"grant_type": "client_credentials", "client_id": "a", "client_secret": "b"});
    for field in ["grant_type", "client_id", "client_secret"] {
        let mut credentials = whole.clone();
        credentials.as_object_mut().unwrap().remove(field);
        let answer = organisation.http.post(organisation.url(PATH)).json(&credentials).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        assert!(json_of(answer).await["message"].as_str().unwrap().contains(field));
    }
}

#[tokio::test]
async fn an_unknown_client_is_401_in_genesys_own_style() {
    let organisation = Organisation::with(|config| {
        config.client = Some(OauthClient { id: "a".to_owned(), secret: "b".into() });
    })
    .await;
    for (id, secret) in [("a", "wrong-secret"), ("x", "b")] {
        let credentials =
            json!({"grant_type": "client_credentials", "client_id": id, "client_secret": secret});
        let answer = organisation.send(Method::POST, PATH, &credentials).await;
        assert_eq!(answer.status(), 401);
        let error = json_of(answer).await;
        let fields: Vec<_> = error.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["code", "contextId", "message", "status"]);
        assert_eq!(error["status"], 401);
        assert!(!error.to_string().contains("wrong-secret"));
    }
}

#[tokio::test]
async fn a_call_without_a_token_or_with_an_unknown_one_is_401() {
    let organisation = Organisation::start().await;
    let url = organisation.url(EVENT_BRIDGES);
    assert_eq!(organisation.http.get(&url).send().await.unwrap().status(), 401);
    assert_eq!(organisation.http.get(&url).bearer_auth("nonsense").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn an_expired_token_is_401_and_a_new_one_is_good() {
    let organisation = Organisation::start().await;
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 200);
    assert_eq!(organisation.simulator.expire_tokens(), 1);
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 401);
    let token = organisation.token("client").await;
    let again = organisation.http.get(organisation.url(EVENT_BRIDGES)).bearer_auth(token);
    assert_eq!(again.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_token_ends_with_its_lifetime() {
    let organisation = Organisation::with(|config| config.token_lifetime = Duration::ZERO).await;
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 401);
}
