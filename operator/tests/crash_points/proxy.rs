//! What the operator talks to instead of the API server and Genesys: the same, with a count of its steps.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpListener;

use crate::steps::{Steps, Verdict};
use crate::{Failure, Outcome};

const LARGEST: usize = 16 << 20;

/// A proxy in front of the client's API server, with the client's identity.
pub(crate) async fn before_api_server(client: kube::Client, steps: Arc<Steps>) -> Outcome<SocketAddr> {
    serve(move |request| {
        let (client, steps) = (client.clone(), Arc::clone(&steps));
        async move {
            let step = write_to_kubernetes(request.method(), request.uri().path());
            let send = async |request: Request| {
                let (parts, body) = request.into_parts();
                let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                let mut forwarded =
                    http::Request::new(kube::client::Body::from(to_bytes(body, LARGEST).await?.to_vec()));
                *forwarded.method_mut() = parts.method;
                *forwarded.uri_mut() = path.parse()?;
                *forwarded.headers_mut() = of_interest(&parts.headers, false);
                let answer = client.send(forwarded).await?;
                Ok(answer.map(Body::new))
            };
            pass(request, step, &steps, send).await
        }
    })
    .await
}

/// In front of one simulated organisation, which has this name in the steps.
pub(crate) async fn before_genesys(
    name: &'static str,
    behind: SocketAddr,
    steps: Arc<Steps>,
) -> Outcome<SocketAddr> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    serve(move |request| {
        let (client, steps) = (client.clone(), Arc::clone(&steps));
        async move {
            let step = Some(call_to_genesys(name, request.method(), request.uri().path()));
            let send = async |request: Request| {
                let (parts, body) = request.into_parts();
                let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                let answer = client
                    .request(parts.method, format!("http://{behind}{path}"))
                    .headers(of_interest(&parts.headers, true))
                    .body(to_bytes(body, LARGEST).await?)
                    .send()
                    .await?;
                Ok(http::Response::from(answer).map(Body::new))
            };
            pass(request, step, &steps, send).await
        }
    })
    .await
}

async fn serve<H, F>(handle: H) -> Outcome<SocketAddr>
where
    H: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .fallback(async |State(handle): State<H>, request: Request| {
            // In a task of its own, which outlives the connection of an operator that dies.
            tokio::spawn(handle(request)).await.unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
        })
        .with_state(handle);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

/// Lets a request through, unless it is the one at which the operator dies.
async fn pass(
    request: Request,
    step: Option<String>,
    steps: &Steps,
    send: impl AsyncFnOnce(Request) -> Result<Response, Failure>,
) -> Response {
    use crate::steps::Side::{After, Before, Late};
    let verdict = step.map_or(Verdict::Pass, |what| steps.arrive(what));
    match verdict {
        Verdict::Pass => send(request).await.unwrap_or_else(|failure| {
            (StatusCode::BAD_GATEWAY, format!("the proxy failed: {failure}")).into_response()
        }),
        Verdict::Kill(Before) => {
            steps.kill();
            StatusCode::BAD_GATEWAY.into_response()
        }
        Verdict::Kill(After) => {
            carry_out(request, send).await;
            steps.kill();
            StatusCode::BAD_GATEWAY.into_response()
        }
        Verdict::Kill(Late) => {
            // A dead process would not send the rest.
            let (parts, body) = request.into_parts();
            let Ok(body) = to_bytes(body, LARGEST).await else {
                return StatusCode::BAD_REQUEST.into_response();
            };
            steps.kill();
            steps.may_come_late().await;
            carry_out(Request::from_parts(parts, Body::from(body)), send).await;
            steps.came_late();
            StatusCode::BAD_GATEWAY.into_response()
        }
    }
}

/// Sends a request whose answer is not read by the operator. Returns when the whole answer is there.
async fn carry_out(request: Request, send: impl AsyncFnOnce(Request) -> Result<Response, Failure>) {
    if let Ok(answer) = send(request).await {
        let _ = to_bytes(answer.into_body(), LARGEST).await;
    }
}

fn of_interest(headers: &HeaderMap, with_authorization: bool) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in [ACCEPT, CONTENT_TYPE, USER_AGENT, AUTHORIZATION] {
        if let Some(value) = headers.get(&name)
            && (name != AUTHORIZATION || with_authorization)
        {
            kept.insert(name, value.clone());
        }
    }
    debug_assert!(!kept.contains_key(CONTENT_LENGTH) && !kept.contains_key(TRANSFER_ENCODING));
    kept
}

/// What a write is about; nothing for a read, and for the Lease, which is written all the time.
fn write_to_kubernetes(method: &Method, path: &str) -> Option<String> {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let place = parts.iter().position(|part| *part == "namespaces")?;
    let object = &parts[(place + 2).min(parts.len())..];
    match object {
        ["leases", ..] => None,
        [kind, name, subresource] => Some(format!("{method} {kind}/{subresource} {name}")),
        [kind, name] => Some(format!("{method} {kind} {name}")),
        [kind] => Some(format!("{method} {kind} -")),
        _ => Some(format!("{method} {path} -")),
    }
}

fn call_to_genesys(name: &str, method: &Method, path: &str) -> String {
    let what = match (path.rsplit_once("eventbridges"), method.as_str()) {
        (None, _) => "token",
        (Some((_, "")), "GET") => "look-up by name",
        (Some((_, "")), _) => "creation",
        (Some(_), "GET") => "look at one",
        (Some(_), "PUT") => "update",
        (Some(_), _) => "deletion",
    };
    format!("Genesys: {what}, {method} ({name})")
}
