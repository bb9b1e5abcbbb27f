//! What is between the relay and the queue's server: passes calls on, and hurts some of them.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::queue::http_client;

/// What becomes of a call.
pub(crate) enum Fate {
    /// It is passed on.
    Passed,
    /// It is answered with an error of the service, and not passed on.
    Refused(StatusCode, &'static str),
    /// These entries of the batch are not passed on, and answered as failed for the service's fault.
    Without(Vec<usize>),
}

/// Decides by the action and its request.
type Decide = dyn FnMut(&str, &Value) -> Fate + Send;

/// A proxy, and the actions that came through it.
pub(crate) struct Proxy {
    pub(crate) url: String,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) async fn start(
        server: &str,
        decide: impl FnMut(&str, &Value) -> Fate + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let decide: Arc<Mutex<Box<Decide>>> = Arc::new(Mutex::new(Box::new(decide)));
        let http = http_client();
        let (server, seen) = (server.to_owned(), Arc::clone(&calls));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, http) = (server.clone(), http.clone());
                let (decide, seen) = (Arc::clone(&decide), Arc::clone(&seen));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        answer(request, server.clone(), http.clone(), Arc::clone(&decide), Arc::clone(&seen))
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { url, calls }
    }

    /// How often an action was called.
    pub(crate) fn calls(&self, action: &str) -> usize {
        self.calls.lock().iter().filter(|called| *called == action).count()
    }
}

async fn answer(
    request: Request<Incoming>,
    server: String,
    http: reqwest::Client,
    decide: Arc<Mutex<Box<Decide>>>,
    seen: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let target = head.headers["x-amz-target"].to_str().unwrap();
    let action = target.strip_prefix("AmazonSQS.").unwrap().to_owned();
    let mut call: Value = serde_json::from_slice(&body).unwrap();
    seen.lock().push(action.clone());
    let fate = decide.lock()(&action, &call);
    let mut failed = Vec::new();
    match fate {
        Fate::Passed => {}
        Fate::Refused(status, code) => {
            let error =
                json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": "so the test wants it"});
            return Ok(response(status, error.to_string()));
        }
        Fate::Without(indices) => {
            let entries = call["Entries"].as_array_mut().unwrap();
            for index in indices.into_iter().rev() {
                if index >= entries.len() {
                    continue;
                }
                let entry = entries.remove(index);
                failed.push(json!({"Id": entry["Id"], "SenderFault": false, "Code": "InternalError"}));
            }
        }
    }
    let nothing_is_left = call["Entries"].as_array().is_some_and(Vec::is_empty);
    if nothing_is_left {
        return Ok(response(StatusCode::OK, json!({"Successful": [], "Failed": failed}).to_string()));
    }
    let sent = http.post(&server).headers(head.headers.clone()).header("content-length", "0");
    let mut sent = sent.body(call.to_string()).build().unwrap();
    sent.headers_mut().remove("host");
    sent.headers_mut().remove("content-length");
    let passed = http.execute(sent).await.unwrap();
    let status = passed.status();
    let text = passed.text().await.unwrap();
    let mut answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if !failed.is_empty() {
        answer["Failed"] = Value::Array(failed);
        return Ok(response(status, answer.to_string()));
    }
    Ok(response(status, text))
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
