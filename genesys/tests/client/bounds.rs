//! Whatever a server sends, the client reads a bounded part of it, follows nothing, and shows little.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::post;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use http::header::LOCATION;
use parking_lot::Mutex;
use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_genesys::error::LimitedBy;
use presenceroute_genesys::{Access, EventBridges, Genesys, GenesysError};
use secrecy::SecretString;
use serde_json::json;
use tokio::net::TcpListener;

use crate::alone;
use crate::organisation::{CLIENT_SECRET, LISTINGS, NAME, Organisation, desired};

const MIB: usize = 1 << 20;

/// A server that gives tokens and answers everything else so, and its URL.
async fn server<A>(answer: A) -> String
where
    A: Fn(Request) -> Response + Clone + Send + Sync + 'static,
{
    let token = async || axum::Json(json!({"access_token": "token", "expires_in": 3600}));
    let router = Router::new()
        .route("/token", post(token))
        .fallback(move |request: Request| std::future::ready(answer(request)));
    serve(router).await
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn client(genesys: &Genesys, api_url: &str) -> EventBridges {
    let access = Access {
        login_url: None,
        api_url: api_url.to_owned(),
        token_path: "/token".to_owned(),
        event_bridges_path: "/bridges".to_owned(),
        token_request: TokenRequest::Json,
        client_id: "client".to_owned(),
        client_secret: SecretString::from(CLIENT_SECRET),
        ca_pem: None,
    };
    genesys.client(access).unwrap().event_bridges()
}

/// `head`, as many of `part` as make so many bytes, and `tail`.
fn long(head: &str, part: &str, bytes: usize, tail: &str) -> Bytes {
    format!("{head}{}{tail}", part.repeat(bytes / part.len())).into()
}

#[tokio::test]
async fn a_page_of_countless_entries_is_refused() {
    for (part, last) in
        [("[],", "[]"), ("{},", "{}"), ("0,", "0"), ("\"\",", "\"\""), (r#"{"id":"1"},"#, "{}")]
    {
        for (bytes, problem) in [
            (MIB, "the list of registrations has more than 10000 entries"),
            (32 * MIB, "more than 8388608 bytes"),
        ] {
            let page = long(r#"{"entities":["#, part, bytes, &format!(r#"{last}],"pageCount":100}}"#));
            let url = server(move |_| Response::new(Body::from(page.clone()))).await;
            let error = client(&Genesys::new(), &url).find_by_name(NAME).await.unwrap_err();
            assert_eq!(error.reason(), "UnexpectedAnswer");
            assert!(error.to_string().contains(problem), "{part} {bytes}: {error}");
        }
    }
}

#[tokio::test]
async fn lists_that_nest_without_end_are_no_json() {
    for part in ["[", r#"{"a":"#] {
        let page = long(r#"{"entities":["#, part, MIB, "");
        let url = server(move |_| Response::new(Body::from(page.clone()))).await;
        let error = client(&Genesys::new(), &url).find_by_name(NAME).await.unwrap_err();
        assert!(error.to_string().contains("not the JSON that was expected"), "{error}");
    }
}

#[tokio::test]
async fn what_is_kept_of_a_list_is_bounded() {
    let registrations: Vec<_> =
        (0..60).map(|id| json!({"id": id.to_string(), "name": NAME, "url": "x".repeat(20_000)})).collect();
    let page = json!({"entities": registrations, "pageCount": 1}).to_string();
    let url = server(move |_| Response::new(Body::from(page.clone()))).await;
    let error = client(&Genesys::new(), &url).find_by_name(NAME).await.unwrap_err();
    assert!(error.to_string().contains("more than 1048576 bytes of entries"), "{error}");
}

#[tokio::test]
async fn a_single_answer_is_bounded() {
    let event_types: Vec<_> = (0..5000).map(|number| number.to_string()).collect();
    let many = Bytes::from(json!({"id": "1", "name": NAME, "eventTypes": event_types}).to_string());
    let long = long(r#"{"id":"1","junk":""#, "x", 2 * MIB, r#""}"#);
    for (body, problem) in [(many, "a field of the wrong type"), (long, "more than 1048576 bytes")] {
        let url = server(move |_| Response::new(Body::from(body.clone()))).await;
        let client = client(&Genesys::new(), &url);
        let errors = [
            client.get("1").await.unwrap_err(),
            client.create(&desired()).await.unwrap_err(),
            client.update("1", &desired()).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}

#[tokio::test]
async fn a_token_answer_is_bounded() {
    for (body, problem) in [
        (long(r#"{"access_token":""#, "x", 100 << 10, r#""}"#), "instead of 1 to 65536"),
        (long(r#"{"junk":""#, "x", MIB, r#""}"#), "more than 262144 bytes"),
    ] {
        let answer = move || std::future::ready(Response::new(Body::from(body.clone())));
        let url = serve(Router::new().route("/token", post(answer))).await;
        let error = client(&Genesys::new(), &url).create(&desired()).await.unwrap_err();
        assert!(error.to_string().contains(problem) && !error.may_have_created(), "{error}");
    }
}

/// A body of so many bytes that does not end.
fn unending(bytes: usize) -> Body {
    let head = Bytes::from_static(br#"{"entities":[""#);
    let part = Bytes::from("x".repeat(64 << 10));
    let parts = stream::once(std::future::ready(head))
        .chain(stream::iter(std::iter::repeat_n(part, bytes / (64 << 10))));
    Body::from_stream(parts.chain(stream::pending()).map(Ok::<_, std::io::Error>))
}

#[tokio::test]
async fn the_beginning_of_an_errors_answer_is_enough() {
    let answer = |_| Response::builder().status(503).body(unending(MIB)).unwrap();
    let url = server(answer).await;
    let start = Instant::now();
    let error = client(&Genesys::new(), &url).find_by_name(NAME).await.unwrap_err();
    assert_eq!(error.reason(), "ServerError");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn answers_that_do_not_end_give_way_to_ordinary_ones() {
    let stalls = server(|_| Response::new(unending(7 * MIB))).await;
    let organisation = Organisation::new().await;
    organisation.event_bridges().create(&desired()).await.unwrap();
    let routes: Vec<_> = (0..16)
        .map(|_| {
            let client = client(&organisation.genesys, &stalls);
            tokio::spawn(async move { client.find_by_name(NAME).await })
        })
        .collect();
    // There is room for four of them.
    let (results, waiting) = {
        let mut routes = stream::iter(routes).buffer_unordered(16);
        let results: Vec<_> = routes.by_ref().take(12).collect().await;
        (results, routes)
    };
    for result in results {
        let error = result.unwrap().unwrap_err();
        assert!(error.to_string().contains("the largest of those that are read at the same time"), "{error}");
    }
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(organisation.event_bridges().find_by_name(NAME).await.unwrap().entities.len(), 1);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(waiting);
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn long_pages_for_many_routes_take_little_memory() {
    alone("bounds::read_long_pages_for_many_routes", &[]).unwrap();
}

#[tokio::test]
#[ignore = "long_pages_for_many_routes_take_little_memory runs it"]
async fn read_long_pages_for_many_routes() {
    let junk = format!(r#"{{"id":"1","junk":"{}"}},"#, "x".repeat(70_000));
    let nested = format!(r#"{{"junk":[{}0]}},"#, "[],".repeat(20_000));
    for (entity, count) in
        [(junk, 100), (nested, 100), ("[],".to_owned(), 9000), ("[],".to_owned(), 10 * MIB)]
    {
        let page = long(r#"{"entities":["#, &entity, entity.len() * count, r#"0],"pageCount":2}"#);
        let url = server(move |_| Response::new(Body::from(page.clone()))).await;
        let genesys = Genesys::new();
        let read = || {
            let client = client(&genesys, &url);
            tokio::spawn(async move { client.find_by_name(NAME).await })
        };
        let _ = read().await.unwrap();
        let before = peak_memory();
        for route in futures::future::join_all((0..24).map(|_| read())).await {
            let _ = route.unwrap();
        }
        let taken = peak_memory() - before;
        assert!(taken < 96 * MIB, "{count} entities of {} bytes: {taken} bytes", entity.len());
    }
}

#[tokio::test]
async fn a_list_is_followed_by_its_cursors_and_nowhere_else() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let url = server(move |request| {
        heard.lock().push(request.uri().to_string());
        let next = match heard.lock().len() {
            1 => Some("/api/v9/other?name=x&cursor=a"),
            2 => Some("https://elsewhere.invalid/bridges?cursor=b#c"),
            3 => Some("?cursor=c"),
            _ => None,
        };
        let page = json!({"entities": [{"id": "1", "name": NAME}, {"id": heard.lock().len(), "name": "x"}], "nextUri": next});
        Response::new(Body::from(page.to_string()))
    })
    .await;
    let listing = client(&Genesys::new(), &url).find_by_name(NAME).await.unwrap();
    assert_eq!((listing.entities.len(), listing.pages), (1, 4));
    let first = "/bridges?name=presence%2Fcontact-centre&pageNumber=1&pageSize=100";
    assert_eq!(*asked.lock(), [first, "/bridges?name=x&cursor=a", "/bridges?cursor=b", "/bridges?cursor=c"]);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_its_host_is_named() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&arrived);
    let target = server(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Response::new(Body::from(json!({"id": "1", "entities": []}).to_string()))
    })
    .await;
    let port = target.rsplit_once(':').unwrap().1.to_owned();
    for status in [301, 302, 303, 307, 308] {
        for (location, named) in [
            (format!("http://localhost:{port}/bridges"), r#"redirects to host "localhost""#),
            (format!("//127.0.0.1:{port}/token"), r#"redirects to host "127.0.0.1""#),
            ("/login".to_owned(), r#"redirects to host "127.0.0.1""#),
            (format!("http://{}/", "x".repeat(5000)), "…\""),
            ("http://[".to_owned(), "redirects elsewhere"),
        ] {
            let redirect = move || {
                Response::builder().status(status).header(LOCATION, &location).body(Body::empty()).unwrap()
            };
            let answer = redirect.clone();
            let of_calls = server(move |_| answer()).await;
            let of_tokens = serve(Router::new().fallback(move || std::future::ready(redirect()))).await;
            let clients = [of_calls, of_tokens].map(|url| client(&Genesys::new(), &url));
            for client in clients {
                let errors = [
                    client.create(&desired()).await.unwrap_err(),
                    client.find_by_name(NAME).await.unwrap_err(),
                    client.get("1").await.unwrap_err(),
                    client.delete("1").await.unwrap_err(),
                ];
                for error in errors {
                    assert_eq!(error.reason(), "UnexpectedAnswer");
                    let text = error.to_string();
                    assert!(text.contains(named) && text.contains("is not followed"), "{text}");
                    assert!(text.len() < 1000, "{text}");
                }
            }
        }
    }
    assert_eq!(arrived.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_servers_words_are_one_short_line() {
    for (words, shown) in [
        ("first\r\nsecond\u{2028}third", "first second third"),
        ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
        ("right\u{202e}left", "right\\u{202e}left"),
    ] {
        let body = json!({"message": words, "code": words, "contextId": words}).to_string();
        let long = json!({"message": words.repeat(2000), "code": words.repeat(500)}).to_string();
        for status in [400, 401, 403, 409, 422, 429, 500] {
            for body in [body.clone(), long.clone()] {
                let url = server(move |_| {
                    Response::builder().status(status).body(Body::from(body.clone())).unwrap()
                })
                .await;
                let text = client(&Genesys::new(), &url).create(&desired()).await.unwrap_err().to_string();
                assert!(text.contains(shown), "{text}");
                assert!(text.len() < 1500 && !text.contains(char::is_control), "{text:?}");
                assert!(!text.contains(['\u{2028}', '\u{202e}']), "{text:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_long_retry_after_holds_back_others_for_a_minute() {
    for (wait, own) in [(30, 30), (600, 600), (1_000_000, 3600)] {
        let organisation = Organisation::new().await;
        organisation.set_faults(
            json!([{"match": {"method": "GET", "nth": 1}, "do": {"status": 429, "retryAfter": wait}}]),
        );
        let error = organisation.event_bridges().find_by_name(NAME).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(own)));
        let error = organisation.event_bridges().find_by_name("another/route").await.unwrap_err();
        assert!(matches!(error, GenesysError::RateLimited { cause: LimitedBy::Earlier, .. }), "{error}");
        let others = error.retry_after().unwrap();
        let expected = Duration::from_secs(own.min(60));
        assert!(others <= expected && others > expected - Duration::from_secs(2), "{others:?}");
        assert_eq!(organisation.calls(LISTINGS), 1);
    }
}

#[tokio::test]
async fn a_status_that_no_api_has_is_an_error() {
    for status in [StatusCode::MULTIPLE_CHOICES, StatusCode::NOT_MODIFIED] {
        let url = server(move |_| Response::builder().status(status).body(Body::empty()).unwrap()).await;
        let error = client(&Genesys::new(), &url).create(&desired()).await.unwrap_err();
        assert!(error.to_string().contains("redirects elsewhere"), "{error}");
    }
}
