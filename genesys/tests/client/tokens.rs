//! Tokens: requested once for all routes, renewed, and replaced when they are rejected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use genesys_simulator::Config;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use parking_lot::Mutex;
use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_genesys::{Access, Limits};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::organisation::{CLIENT_SECRET, CREATIONS, LISTINGS, NAME, Organisation, TOKENS, desired, named};

#[tokio::test]
async fn one_token_serves_many_calls_of_many_routes() {
    let organisation = Organisation::new().await;
    let routes: Vec<_> = (0..40)
        .map(|number| {
            let event_bridges = organisation.event_bridges();
            tokio::spawn(async move { event_bridges.create(&named(&format!("presence/{number}"))).await })
        })
        .collect();
    for route in routes {
        route.await.unwrap().unwrap();
    }
    assert_eq!((organisation.calls(TOKENS), organisation.calls(CREATIONS)), (1, 40));
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let short_lived = Config { token_lifetime: Duration::from_secs(3), ..Config::default() };
    let organisation = Organisation::with(short_lived, Limits::default()).await;
    let event_bridges = organisation.event_bridges();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        event_bridges.find_by_name(NAME).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let unauthorised = organisation.simulator.request_counts().by_status.get(&401).copied();
    assert_eq!((unauthorised, organisation.calls(TOKENS)), (None, 3));
}

#[tokio::test]
async fn a_rejected_token_is_replaced_and_the_request_repeated_once() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    event_bridges.create(&desired()).await.unwrap();
    organisation.simulator.expire_tokens();
    assert_eq!(event_bridges.find_by_name(NAME).await.unwrap().entities.len(), 1);
    assert_eq!((organisation.calls(TOKENS), organisation.calls(LISTINGS)), (2, 2));
}

#[tokio::test]
async fn a_second_rejection_is_an_error() {
    let organisation = Organisation::new().await;
    organisation.suffers(json!({"status": 401}));
    let error = organisation.event_bridges().create(&desired()).await.unwrap_err();
    assert_eq!((error.reason(), error.is_permanent()), ("CredentialsRejected", true));
    assert_eq!((organisation.calls(TOKENS), organisation.calls(CREATIONS)), (2, 2));
}

#[tokio::test]
async fn wrong_credentials_are_rejected_and_right_ones_work_at_once() {
    let organisation = Organisation::new().await;
    let wrong = Access { client_secret: SecretString::from("not-the-secret"), ..organisation.access() };
    let error =
        organisation.genesys.client(wrong).unwrap().event_bridges().create(&desired()).await.unwrap_err();
    assert_eq!(error.reason(), "CredentialsRejected");
    assert!(error.to_string().contains("/api/v2/oauth/token"), "{error}");
    organisation.event_bridges().create(&desired()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_request_does_not_block_the_token() {
    let organisation = Organisation::new().await;
    let event_bridges = Arc::new(organisation.event_bridges());
    organisation
        .set_faults(json!([{"match": {"path": "/api/v2/oauth", "nth": 1}, "do": {"delayMs": 60_000}}]));
    let call = tokio::time::timeout(Duration::from_millis(300), event_bridges.find_by_name(NAME));
    assert!(call.await.is_err());
    let start = Instant::now();
    event_bridges.find_by_name(NAME).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_token_is_requested_by_json_or_by_form() {
    let basic = format!("Basic {}", STANDARD.encode(format!("client:{CLIENT_SECRET}")));
    let json = json!({
        "grant_type": "client_credentials", "client_id": "client", "client_secret": CLIENT_SECRET,
    });
    let table = [
        (TokenRequest::Json, "application/json", None, json.to_string()),
        (
            TokenRequest::Form,
            "application/x-www-form-urlencoded",
            Some(basic),
            "grant_type=client_credentials".to_owned(),
        ),
    ];
    for (token_request, media_type, authorization, body) in table {
        let organisation = Organisation::new().await;
        let (api_url, asked) = overheard(&organisation).await;
        let access = Access { api_url, token_request, ..organisation.access() };
        organisation.genesys.client(access).unwrap().event_bridges().create(&desired()).await.unwrap();
        let asked = asked.lock();
        let (parts, content) = &asked[0];
        let header = |name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(parts.uri.path(), "/api/v2/oauth/token");
        assert_eq!(header(CONTENT_TYPE).as_deref(), Some(media_type));
        assert_eq!(header(AUTHORIZATION), authorization);
        let is_same = match token_request {
            TokenRequest::Json => serde_json::from_str::<Value>(content).unwrap() == json,
            TokenRequest::Form => *content == body,
        };
        assert!(is_same, "{content}");
    }
}

/// What was asked, in the order in which it came.
type Asked = Arc<Mutex<Vec<(Parts, String)>>>;

/// A proxy in front of the organisation that keeps the requests, and its URL.
async fn overheard(organisation: &Organisation) -> (String, Asked) {
    let (behind, asked) = (format!("http://{}", organisation.running.address()), Asked::default());
    let heard = Arc::clone(&asked);
    let pass_on = async move |request: Request| {
        let (parts, body) = request.into_parts();
        let content = to_bytes(body, 1 << 20).await.unwrap();
        let text = String::from_utf8(content.to_vec()).unwrap();
        heard.lock().push((parts.clone(), text));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let call =
            http.request(parts.method, format!("{behind}{}", parts.uri)).headers(parts.headers).body(content);
        http::Response::from(call.send().await.unwrap()).map(Body::new)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass_on)).await });
    (url, asked)
}
