//! The API server: what it says when it will not do something, in words for people, and how often it is asked.

use std::fmt;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tower::{Layer, Service};

/// An error of the Kubernetes client, without its inner structure.
#[derive(Debug)]
pub struct ApiServerError(kube::Error);

impl ApiServerError {
    /// The HTTP status, when the API server gave one.
    pub fn code(&self) -> Option<u16> {
        match &self.0 {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

impl From<kube::Error> for ApiServerError {
    fn from(error: kube::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for ApiServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            kube::Error::Api(status) => {
                write!(formatter, "{} ({} {})", status.message, status.code, status.reason)
            }
            other => other.fmt(formatter),
        }
    }
}

impl std::error::Error for ApiServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The requests to the API server, counted by verb and status.
pub type Requests = Family<RequestLabels, Counter>;

/// What a request was and what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// The verb; `get` is also a list.
    pub(crate) verb: &'static str,
    /// The HTTP status, 0 where there was no answer.
    pub(crate) code: u16,
}

/// Makes a client count its requests.
#[derive(Clone)]
pub struct CountRequests(pub Requests);

impl<S> Layer<S> for CountRequests {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, requests: self.0.clone() }
    }
}

/// Counts what passes.
#[derive(Clone)]
pub struct Counting<S> {
    inner: S,
    requests: Requests,
}

impl<S, Sent, Received> Service<Request<Sent>> for Counting<S>
where
    S: Service<Request<Sent>, Response = Response<Received>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Sent>) -> Self::Future {
        let (requests, verb) = (self.requests.clone(), verb(&request));
        let count = move |answer: &Result<S::Response, S::Error>| {
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            requests.get_or_create(&RequestLabels { verb, code }).inc();
        };
        self.inner.call(request).inspect(count).boxed()
    }
}

fn verb<B>(request: &Request<B>) -> &'static str {
    match *request.method() {
        Method::GET if request.uri().query().is_some_and(|query| query.contains("watch=true")) => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}
