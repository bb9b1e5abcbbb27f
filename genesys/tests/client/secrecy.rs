//! Neither errors nor logs hold a secret or a token.

use std::sync::Arc;

use parking_lot::Mutex;
use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_genesys::{Access, Genesys};
use secrecy::SecretString;
use serde_json::json;

use crate::alone;
use crate::organisation::{CLIENT_SECRET, Organisation, SIGNING_SECRET, desired};

/// A server that repeats, in every error, the secrets that it was sent.
#[tokio::test]
async fn no_secret_is_in_anything_that_can_be_printed() {
    let organisation = Organisation::new().await;
    let event_bridges = organisation.event_bridges();
    let created = event_bridges.create(&desired()).await.unwrap();
    let mut printed = vec![
        format!("{:?}", organisation.access()),
        format!("{:?} {event_bridges:?} {created:?} {:?}", organisation.genesys, desired()),
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
        login_url: None,
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

/// The key of the client's id may be set to another value of the Secret, so that the id is a secret, too. The server
/// repeats what it was sent: the head and the body of the token request, in one text.
#[tokio::test]
async fn no_client_id_is_in_an_error() {
    const ID: &str = "value \"of another/key\\";
    let echo = axum::Router::new().fallback(async |headers: http::HeaderMap, body: String| {
        let authorization = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let basic = authorization.and_then(|value| value.strip_prefix("Basic ")).map(|it| {
            use base64::Engine as _;
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(it).unwrap()).unwrap()
        });
        // Only a part of a text is shown.
        let body = if basic.is_some() { String::new() } else { body };
        let message = format!("{}{}{body}", authorization.unwrap_or_default(), basic.unwrap_or_default());
        (http::StatusCode::UNAUTHORIZED, axum::Json(json!({"message": message, "code": ID})))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, echo).await });
    for token_request in [TokenRequest::Json, TokenRequest::Form] {
        let access = Access {
            login_url: None,
            api_url: format!("http://{address}"),
            token_path: "/token".to_owned(),
            event_bridges_path: "/bridges".to_owned(),
            token_request,
            client_id: ID.to_owned(),
            client_secret: SecretString::from(CLIENT_SECRET),
            ca_pem: None,
        };
        let debug = format!("{access:?}");
        let client = Genesys::new().client(access).unwrap();
        let debug = format!("{debug} {client:?}");
        let error = client.event_bridges().create(&desired()).await.unwrap_err();
        assert!(error.to_string().contains("[redacted]"), "{error}");
        for text in [format!("{error} {error:?}"), debug] {
            assert!(!text.contains("another") && !text.contains(CLIENT_SECRET), "{token_request:?}: {text}");
        }
    }
}

/// A log of everything, of this crate and of those below it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// In a process of its own: what a log holds depends on who else sets one up meanwhile.
#[test]
fn no_secret_and_no_token_is_in_the_finest_log() {
    alone("secrecy::log_everything", &[]).unwrap();
}

#[tokio::test]
#[ignore = "no_secret_and_no_token_is_in_the_finest_log runs it"]
async fn log_everything() {
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
        let event_bridges = Genesys::new().client(access).unwrap().event_bridges();
        let id = event_bridges.create(&desired()).await.unwrap().id;
        event_bridges.update(&id, &desired()).await.unwrap();
        organisation.simulator.expire_tokens();
        event_bridges.delete(&id).await.unwrap();
    }
    drop(guard);
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
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
