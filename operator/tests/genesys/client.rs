//! The client: what is shared by all routes, and what each fault becomes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use genesys_simulator::{Config, DuplicateNames};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_genesys::error::LimitedBy;
use presenceroute_genesys::{Access, DesiredRegistration, Difference, Genesys, GenesysError, Limits};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::alone;
use crate::organisation::{
    CLIENT_SECRET, CREATIONS, LISTINGS, NAME, Organisation, SIGNING_SECRET, TOKENS, desired, named,
};

#[tokio::test]
async fn a_registration_is_created_found_changed_and_deleted() {
    let organisation = Organisation::new().await;
    let account = organisation.account();

    assert_eq!(account.find_by_name(NAME).await.unwrap().entities, []);
    let created = account.create(&desired()).await.unwrap();
    assert_eq!(created.differences(&desired()), []);
    assert_eq!(account.find_by_name(NAME).await.unwrap().entities, std::slice::from_ref(&created));
    assert_eq!(account.get(&created.id).await.unwrap().as_ref(), Some(&created));

    let suspended = DesiredRegistration { enabled: false, ..desired() };
    assert_eq!(created.differences(&suspended), [Difference::Enabled]);
    let updated = account.update(&created.id, &suspended).await.unwrap().unwrap();
    assert_eq!((updated.id.as_str(), updated.differences(&suspended)), (created.id.as_str(), vec![]));

    account.delete(&created.id).await.unwrap();
    assert!(organisation.simulator.registrations().is_empty());
}

#[tokio::test]
async fn a_registration_that_is_gone_is_none_and_deleting_it_is_fine() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    let id = account.create(&desired()).await.unwrap().id;
    account.delete(&id).await.unwrap();

    assert_eq!(account.get(&id).await.unwrap(), None);
    assert_eq!(account.update(&id, &desired()).await.unwrap(), None);
    account.delete(&id).await.unwrap();
}

#[tokio::test]
async fn an_update_brings_a_new_secret() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    let id = account.create(&desired()).await.unwrap().id;
    let rotated = DesiredRegistration { secret: SecretString::from("the-next-secret"), ..desired() };
    account.update(&id, &rotated).await.unwrap().unwrap();
    let held = organisation.simulator.registrations()[0].secret_fingerprint();
    assert_eq!(held, genesys_simulator::fingerprint(&SecretString::from("the-next-secret")));
}

#[tokio::test]
async fn a_name_is_found_through_small_pages() {
    let small_pages = Config { page_size_cap: 2, ..Config::default() };
    let organisation = Organisation::with(small_pages, Limits::default()).await;
    let account = organisation.account();
    for _ in 0..5 {
        account.create(&desired()).await.unwrap();
    }
    account.create(&named("presence/contact-centre-2")).await.unwrap();

    assert_eq!(account.find_by_name(NAME).await.unwrap().entities.len(), 5);
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
    let found = organisation.account().find_by_name(NAME).await.unwrap().entities;
    assert_eq!(found.iter().map(|registration| registration.id.as_str()).collect::<Vec<_>>(), ["2"]);
    assert_eq!(organisation.calls(LISTINGS), 3);
}

#[tokio::test]
async fn a_server_that_repeats_its_only_page_is_not_asked_for_ever() {
    let organisation = Organisation::new().await;
    organisation.suffers(json!({"status": 200, "body": {"entities": [{"id": "1", "name": NAME}]}}));
    assert_eq!(organisation.account().find_by_name(NAME).await.unwrap().entities.len(), 1);
    assert_eq!(organisation.calls(LISTINGS), 2);
}

#[tokio::test]
async fn a_list_without_end_is_given_up() {
    let organisation = Organisation::new().await;
    organisation.suffers(json!({"status": 200, "body": {"entities": [], "pageCount": 1_000_000}}));
    let error = organisation.account().find_by_name(NAME).await.unwrap_err();
    assert_eq!(error.reason(), "UnexpectedAnswer");
    assert_eq!(organisation.calls(LISTINGS), 100);
}

#[tokio::test]
async fn one_token_serves_many_calls_of_many_routes() {
    let organisation = Organisation::new().await;
    let routes: Vec<_> = (0..40)
        .map(|number| {
            let account = organisation.account();
            tokio::spawn(async move { account.create(&named(&format!("presence/{number}"))).await })
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
    let account = organisation.account();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        account.find_by_name(NAME).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let unauthorised = organisation.simulator.request_counts().by_status.get(&401).copied();
    assert_eq!((unauthorised, organisation.calls(TOKENS)), (None, 3));
}

#[tokio::test]
async fn a_token_that_is_rejected_is_replaced_and_the_call_made_once_again() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    account.create(&desired()).await.unwrap();
    organisation.simulator.expire_tokens();
    assert_eq!(account.find_by_name(NAME).await.unwrap().entities.len(), 1);
    assert_eq!((organisation.calls(TOKENS), organisation.calls(LISTINGS)), (2, 2));
}

#[tokio::test]
async fn a_second_rejection_is_the_callers() {
    let organisation = Organisation::new().await;
    organisation.suffers(json!({"status": 401}));
    let error = organisation.account().create(&desired()).await.unwrap_err();
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
    organisation.account().create(&desired()).await.unwrap();
}

#[tokio::test]
async fn a_token_can_be_asked_for_by_json_or_by_form() {
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
        let asked = asked.lock().unwrap();
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

/// Somebody who listens between the operator and the organisation, and where the operator finds them.
async fn overheard(organisation: &Organisation) -> (String, Asked) {
    let (behind, asked) = (format!("http://{}", organisation.running.address()), Asked::default());
    let heard = Arc::clone(&asked);
    let pass_on = async move |request: Request| {
        let (parts, body) = request.into_parts();
        let content = to_bytes(body, 1 << 20).await.unwrap();
        let text = String::from_utf8(content.to_vec()).unwrap();
        heard.lock().unwrap().push((parts.clone(), text));
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
        let error = organisation.account().create(&desired()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{fault}: {error}");
        assert_eq!(error.is_permanent(), is_permanent, "{fault}: {error}");
        assert_eq!(error.may_have_created(), may_have_created, "{fault}: {error}");
        assert_eq!(error.retry_after().map(|wait| wait.as_secs()), fault["retryAfter"].as_u64(), "{fault}");
        let calls = if reason == "CredentialsRejected" { 2 } else { 1 };
        assert_eq!(organisation.calls(CREATIONS), calls, "{fault} is not tried again here");
    }
}

#[tokio::test]
async fn a_server_that_knows_post_alone_is_told_from_one_where_something_is_missing() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    let id = account.create(&desired()).await.unwrap().id;
    for fault in [json!({"postOnly": true}), json!({"status": 501})] {
        organisation.suffers(fault);
        let errors = [
            account.find_by_name(NAME).await.unwrap_err(),
            account.get(&id).await.unwrap_err(),
            account.update(&id, &desired()).await.unwrap_err(),
            account.delete(&id).await.unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.reason(), error.is_permanent()), ("Unsupported", true), "{error}");
        }
    }
    // Nothing at the collection's path is a wrong path or no listing; nothing at an id's is that it is gone.
    organisation.suffers(json!({"status": 404}));
    assert_eq!(account.find_by_name(NAME).await.unwrap_err().reason(), "Unsupported");
    assert_eq!(account.get(&id).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_endpoint_that_is_not_there_is_a_wrong_path() {
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
    let account = organisation.account();
    account.create(&desired()).await.unwrap();
    let error = account.create(&desired()).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict");
    assert!(error.to_string().contains("is already called"), "{error}");
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_found_by_its_name() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    for fault in [json!({"cutConnection": "after"}), json!({"garbage": true}), json!({"noId": true})] {
        organisation.suffers(fault);
        assert!(account.create(&desired()).await.unwrap_err().may_have_created());
        organisation.set_faults(json!([]));
        let found = account.find_by_name(NAME).await.unwrap().entities;
        assert_eq!(found.len(), 1);
        account.delete(&found[0].id).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_nothing_was_sent() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    organisation.running.stop().await;
    let error = account.create(&desired()).await.unwrap_err();
    assert_eq!((error.reason(), error.may_have_created()), ("Unreachable", false));
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn the_routes_of_a_client_share_one_budget() {
    let limits = Limits { calls_per_minute: 5, ..Limits::default() };
    let organisation = Organisation::with(Config::default(), limits).await;
    // The token is the first call.
    for _ in 0..4 {
        organisation.account().find_by_name(NAME).await.unwrap();
    }
    let error = organisation.account().find_by_name("another/route").await.unwrap_err();
    let GenesysError::RateLimited { cause: LimitedBy::Budget(5), retry_after: Some(wait), .. } = error else {
        panic!("{error}");
    };
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(61), "{wait:?}");
    assert_eq!(organisation.simulator.request_counts().total, 5);
}

#[tokio::test]
async fn the_budget_stays_within_what_the_server_allows() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    let calls = (0..400).map(|_| account.find_by_name(NAME));
    let results = futures::future::join_all(calls).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 299);
    assert!(!organisation.simulator.request_counts().by_status.contains_key(&429));
}

#[tokio::test]
async fn a_429_holds_back_the_other_calls_of_the_client_and_nobody_elses() {
    let organisation = Organisation::new().await;
    organisation
        .set_faults(json!([{"match": {"method": "GET", "nth": 1}, "do": {"status": 429, "retryAfter": 30}}]));
    let account = organisation.account();
    account.find_by_name(NAME).await.unwrap_err();

    let start = Instant::now();
    let error = organisation.account().find_by_name("another/route").await.unwrap_err();
    assert!(matches!(error, GenesysError::RateLimited { cause: LimitedBy::Earlier, .. }), "{error}");
    assert!(error.retry_after().unwrap() > Duration::from_secs(29));
    assert!(start.elapsed() < Duration::from_millis(500), "told, not slept");
    assert_eq!(organisation.calls(LISTINGS), 1);

    let other_organisation = Organisation::new().await;
    other_organisation.account().find_by_name(NAME).await.unwrap();
}

#[tokio::test]
async fn calls_go_on_once_the_server_is_ready_again() {
    let organisation = Organisation::new().await;
    organisation
        .set_faults(json!([{"match": {"method": "GET", "nth": 1}, "do": {"status": 429, "retryAfter": 1}}]));
    let account = organisation.account();
    account.find_by_name(NAME).await.unwrap_err();
    let start = Instant::now();
    account.find_by_name(NAME).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
}

/// A server that repeats, in every error, the secrets that it was sent.
#[tokio::test]
async fn no_secret_is_in_anything_that_can_be_printed() {
    let organisation = Organisation::new().await;
    let account = organisation.account();
    let created = account.create(&desired()).await.unwrap();
    let mut printed = vec![
        format!("{:?}", organisation.access()),
        format!("{:?} {account:?} {created:?} {:?}", organisation.genesys, desired()),
    ];
    let parrot = |secret: &str| {
        let message = format!("got {secret} and\u{1b}[31m more");
        json!({"message": message, "code": secret, "contextId": secret, "secret": secret, "error": secret})
    };
    for status in [400, 401, 403, 404, 405, 409, 422, 429, 500, 302, 204, 299] {
        let tries = [
            ("/api/v2/analytics", SIGNING_SECRET, TokenRequest::Json),
            ("/api/v2/analytics", CLIENT_SECRET, TokenRequest::Json),
            ("/api/v2/oauth", CLIENT_SECRET, TokenRequest::Json),
            ("/api/v2/oauth", CLIENT_SECRET, TokenRequest::Form),
        ];
        for (path, secret, token_request) in tries {
            organisation.set_faults(
                json!([{"match": {"path": path}, "do": {"status": status, "body": parrot(secret)}}]),
            );
            let access = Access { token_request, ..organisation.access() };
            let error =
                Genesys::new().client(access).unwrap().event_bridges().create(&desired()).await.unwrap_err();
            printed.push(format!("{error} {error:?}"));
        }
    }
    for text in printed {
        assert!(!text.contains(CLIENT_SECRET) && !text.contains(SIGNING_SECRET), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

/// The token is looked for where only the server knows it: it answers with the Authorization header that it got.
#[tokio::test]
async fn no_token_is_in_an_error() {
    let echo = axum::Router::new()
        .route(
            "/token",
            axum::routing::post(async || {
                axum::Json(json!({"access_token": "the-token-itself", "expires_in": 60}))
            }),
        )
        .fallback(async |headers: http::HeaderMap| {
            let authorization = headers[http::header::AUTHORIZATION].to_str().unwrap().to_owned();
            (http::StatusCode::FORBIDDEN, axum::Json(json!({"message": authorization})))
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, echo).await });
    let access = Access {
        api_url: format!("http://{address}"),
        token_path: "/token".to_owned(),
        event_bridges_path: "/bridges".to_owned(),
        token_request: TokenRequest::Json,
        client_id: "client".to_owned(),
        client_secret: SecretString::from(CLIENT_SECRET),
        ca_pem: None,
    };
    let error = Genesys::new().client(access).unwrap().event_bridges().create(&desired()).await.unwrap_err();
    assert!(error.to_string().contains("Bearer [redacted]"), "{error}");
    assert!(!format!("{error:?}").contains("the-token-itself"), "{error:?}");
}

#[tokio::test]
async fn a_call_that_is_dropped_keeps_nobody_from_the_token() {
    let organisation = Organisation::new().await;
    let account = Arc::new(organisation.account());
    organisation
        .set_faults(json!([{"match": {"path": "/api/v2/oauth", "nth": 1}, "do": {"delayMs": 60_000}}]));
    let call = tokio::time::timeout(Duration::from_millis(300), account.find_by_name(NAME));
    assert!(call.await.is_err());
    let start = Instant::now();
    account.find_by_name(NAME).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// A log of everything, of this crate and of those below it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// In a process of its own: what a log holds depends on who else sets one up meanwhile.
#[test]
fn no_secret_and_no_token_is_in_the_finest_log() {
    alone("client::the_finest_log_holds_no_secret_and_no_token", &[]).unwrap();
}

#[tokio::test]
#[ignore = "no_secret_and_no_token_is_in_the_finest_log runs it"]
async fn the_finest_log_holds_no_secret_and_no_token() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let organisation = Organisation::new().await;
    for token_request in [TokenRequest::Json, TokenRequest::Form] {
        let access = Access { token_request, ..organisation.access() };
        let account = Genesys::new().client(access).unwrap().event_bridges();
        let id = account.create(&desired()).await.unwrap().id;
        account.update(&id, &desired()).await.unwrap();
        organisation.simulator.expire_tokens();
        account.delete(&id).await.unwrap();
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("called Genesys Cloud") && log.contains("TRACE"), "{log}");
    let basic = base64_of(&format!("client:{CLIENT_SECRET}"));
    for secret in [CLIENT_SECRET, SIGNING_SECRET, basic.as_str()] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    // What a token is like is the server's business: nothing that may be one follows the scheme anywhere.
    assert!(!log.contains("Bearer ") && !log.contains("access_token"), "{log}");
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
