//! A host policy over real connections: which hosts are called, and whose words are shown.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::LOCATION;
use presenceroute_core::allowed_hosts::HostList;
use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_genesys::{Access, EventBridges, Genesys, GenesysError, HostPolicy};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::alone;
use crate::authority::Authority;
use crate::organisation::{CLIENT_SECRET, NAME, Organisation, desired};

fn genesys(hosts: Option<&[&str]>) -> Genesys {
    let list = hosts.map(|hosts| HostList::new(hosts).unwrap());
    Genesys::builder().host_policy(HostPolicy::new(list)).build()
}

/// The organisation's API under another name for its host.
fn access(organisation: &Organisation, host: &str) -> Access {
    let api_url = format!("http://{host}:{}", organisation.running.address().port());
    Access { api_url, ..organisation.access() }
}

#[tokio::test]
async fn an_address_of_this_machine_is_refused_before_any_request() {
    let organisation = Organisation::new().await;
    for host in ["127.0.0.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let error = genesys(None).client(access(&organisation, host)).unwrap_err();
        assert_eq!((error.reason(), error.is_permanent()), ("HostNotAllowed", true), "{host}: {error}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_this_machine_is_refused() {
    let organisation = Organisation::new().await;
    for hosts in [None, Some(["*.localhost", "*.invalid", "localhost"].as_slice())] {
        let host = if hosts.is_none() { "localhost" } else { "a.localhost" };
        let client = genesys(hosts).client(access(&organisation, host)).unwrap().event_bridges();
        let errors = [
            client.create(&desired()).await.unwrap_err(),
            client.find_by_name(NAME).await.unwrap_err(),
            client.delete("1").await.unwrap_err(),
        ];
        for error in errors {
            // A system may not resolve names below localhost at all.
            let is_unknown = host == "a.localhost" && matches!(error, GenesysError::Unreachable { .. });
            assert!(is_unknown || error.reason() == "HostNotAllowed", "{error}");
            assert!(!error.may_have_created(), "{error}");
        }
    }
    assert_eq!(organisation.simulator.request_counts().total, 0);
}

#[tokio::test]
async fn a_host_that_is_listed_is_called() {
    let organisation = Organisation::new().await;
    for host in ["localhost", "127.0.0.1"] {
        let client = genesys(Some(&[host])).client(access(&organisation, host)).unwrap().event_bridges();
        let created = client.create(&desired()).await.unwrap();
        client.delete(&created.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_is_not_listed_is_refused_by_name() {
    let organisation = Organisation::new().await;
    for host in ["127.0.0.1", "localhost", "api.example.com", "10.0.0.1"] {
        let error = genesys(Some(&["*.mypurecloud.ie"])).client(access(&organisation, host)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("host {host:?}")) && text.contains("allowed hosts"), "{text}");
        assert!(text.contains("operator.policy.genesysHosts"), "{text}");
    }
}

#[tokio::test]
async fn without_a_policy_this_machine_is_called() {
    let organisation = Organisation::new().await;
    let client = Genesys::new().client(access(&organisation, "localhost")).unwrap().event_bridges();
    client.create(&desired()).await.unwrap();
}

/// What a server says wherever it can.
const WORDS: &str = "words-of-the-server";

/// A host that only the proxy reaches, which is the server itself: its address is of no special kind.
const HOST: &str = "talks.example";

/// Answers a request with as many words as there is place for. The first segment of the path says how.
fn talk(request: &axum::extract::Request) -> Response {
    let path = request.uri().path().to_owned();
    let (way, path) = path.trim_start_matches('/').split_once('/').unwrap_or((&path, ""));
    let json = |status: u16, body: serde_json::Value| {
        Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
    };
    let failure = json!({
        "message": WORDS, "code": WORDS, "contextId": WORDS, "error": WORDS, "error_description": WORDS,
    });
    match (way.split_once('-'), path) {
        (Some(("token", status)), "token") => json(status.parse().unwrap(), failure),
        (Some(("grant", _)), "token") => json(200, json!({"access_token": format!("{WORDS}\u{1}")})),
        (_, "token") => json(200, json!({"access_token": "token", "expires_in": 3600})),
        (Some(("call", status)), _) => {
            let mut response = json(status.parse().unwrap(), failure);
            response.headers_mut().insert("retry-after", WORDS.parse().unwrap());
            let elsewhere = format!("http://{WORDS}.example/");
            response.headers_mut().insert(LOCATION, elsewhere.parse().unwrap());
            response
        }
        (Some(("wrong", _)), _) => {
            json(200, json!({"id": {WORDS: 1}, "entities": [{"id": "1", "name": NAME, "url": [WORDS]}]}))
        }
        (Some(("noid", _)), _) => {
            json(200, json!({"id": format!("{WORDS} {WORDS}"), "entities": {WORDS: 1}}))
        }
        _ => json(200, json!({"entities": [{"id": "1", "name": NAME, "url": format!("https://{WORDS}/")}]})),
    }
}

fn behind_the_proxy(genesys: &Genesys, scheme: &str, way: &str) -> EventBridges {
    let access = Access {
        login_url: None,
        api_url: format!("{scheme}://{HOST}/{way}"),
        token_path: "/token".to_owned(),
        event_bridges_path: "/bridges".to_owned(),
        token_request: TokenRequest::Form,
        client_id: "client".to_owned(),
        client_secret: CLIENT_SECRET.into(),
        ca_pem: None,
    };
    genesys.client(access).unwrap().event_bridges()
}

/// The texts of all errors that a server's answers lead to.
async fn errors(genesys: &Genesys, scheme: &str, way: &str) -> Vec<String> {
    let client = behind_the_proxy(genesys, scheme, way);
    let errors = [
        client.create(&desired()).await.err(),
        client.find_by_name(NAME).await.err(),
        client.get("1").await.err(),
        client.update("1", &desired()).await.err(),
        client.delete("1").await.err(),
        client.authenticate().await.err(),
    ];
    errors.into_iter().flatten().map(|error| format!("{error} {error:?}")).collect()
}

#[tokio::test]
#[ignore = "words_are_shown_of_listed_hosts_alone runs it"]
async fn a_server_talks() {
    for status in [300, 302, 400, 401, 403, 404, 405, 409, 422, 429, 500, 503] {
        for way in [format!("token-{status}"), format!("call-{status}")] {
            let withheld = errors(&genesys(None), "http", &way).await;
            assert!(withheld.len() >= 2, "{way}: {withheld:?}");
            for text in withheld {
                assert!(!text.contains(WORDS), "{way}: {text}");
                let is_limited = text.contains("RateLimited");
                assert!(is_limited || text.contains(&format!("status {status}")), "{way}: {text}");
            }
            let shown = errors(&genesys(Some(&[HOST])), "http", &way).await;
            assert!(shown.iter().any(|text| text.contains(WORDS)), "{way}: {shown:?}");
        }
    }
    for way in ["grant-", "wrong-", "noid-"] {
        let texts = errors(&genesys(None), "http", way).await;
        assert!(texts.len() >= 2, "{way}: {texts:?}");
        assert!(texts.iter().all(|text| !text.contains(WORDS)), "{way}: {texts:?}");
    }
    for (genesys, shown) in
        [(genesys(None), "another URL".to_owned()), (genesys(Some(&[HOST])), format!("https://{WORDS}/"))]
    {
        let client = behind_the_proxy(&genesys, "http", "well-");
        let found = client.find_by_name(NAME).await.unwrap();
        assert_eq!(client.quote_url(&found.entities[0].url), shown);
    }
}

#[tokio::test]
async fn words_are_shown_of_listed_hosts_alone() {
    let router = Router::new().fallback(async |request: axum::extract::Request| talk(&request));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    in_a_process("host_policy::a_server_talks", proxy).await;
}

#[tokio::test]
#[ignore = "a_connection_that_fails_is_told_in_own_words runs it"]
async fn a_connection_fails() {
    for scheme in ["http", "https"] {
        let texts = errors(&genesys(None), scheme, "x").await;
        assert_eq!(texts.len(), 6, "{texts:?}");
        for text in texts {
            assert!(text.contains("Unreachable") && !text.contains(WORDS), "{text}");
            let cause =
                if scheme == "http" { "the connection" } else { "the server's certificate is not accepted" };
            assert!(text.contains(cause), "{text}");
        }
    }
    let shown = errors(&genesys(Some(&[HOST])), "https", "x").await;
    assert!(shown.iter().all(|text| text.contains("certificate")), "{shown:?}");
}

/// A proxy whose host for plain requests speaks no HTTP, and whose tunnel leads to a certificate full of words.
#[tokio::test]
async fn a_connection_that_fails_is_told_in_own_words() {
    let acceptor = Authority::new(WORDS).acceptor(&format!("{WORDS}.example"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            tokio::spawn(answer_without_http(outside, acceptor.clone()));
        }
    });
    in_a_process("host_policy::a_connection_fails", proxy).await;
}

async fn answer_without_http(mut outside: TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(outside.read_u8().await?);
    }
    if asked.starts_with(b"CONNECT") {
        outside.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        acceptor.accept(outside).await.map(drop)
    } else {
        outside.write_all(format!("{WORDS} {WORDS}\r\n\r\n").as_bytes()).await?;
        outside.shutdown().await
    }
}

/// One ignored test in a process whose proxy is this.
async fn in_a_process(test: &'static str, proxy: String) {
    let run = move || alone(test, &[("HTTP_PROXY", &proxy), ("HTTPS_PROXY", &proxy)]);
    tokio::task::spawn_blocking(run).await.unwrap().unwrap();
}
