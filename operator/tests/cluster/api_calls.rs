//! Every call that the operator's client makes to the API server, and what it got.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{Layer, Service};

/// The calls of one client, noted as their answers begin.
#[derive(Clone, Default)]
pub(crate) struct ApiCalls(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    calls: Vec<Call>,
    watches_begin_in_the_past: bool,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) status: u16,
}

impl Call {
    pub(crate) fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.uri.query().is_some_and(|query| query.contains("watch=true"))
    }
}

impl ApiCalls {
    /// A client whose calls are noted here.
    pub(crate) fn client(&self, config: Config) -> Client {
        ClientBuilder::try_from(config).unwrap().with_layer(self).build()
    }

    /// How many there were so far.
    pub(crate) fn count(&self) -> usize {
        self.log().calls.len()
    }

    /// Those after the first so many.
    pub(crate) fn since(&self, count: usize) -> Vec<Call> {
        self.log().calls[count..].to_vec()
    }

    /// Whether every watch from now on asks for a version that the API server has long forgotten.
    pub(crate) fn begin_watches_in_the_past(&self, yes: bool) {
        self.log().watches_begin_in_the_past = yes;
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }
}

impl<S> Layer<S> for ApiCalls {
    type Service = Noting<S>;

    fn layer(&self, inner: S) -> Noting<S> {
        Noting { inner, calls: self.clone() }
    }
}

/// Notes what passes.
#[derive(Clone)]
pub(crate) struct Noting<S> {
    inner: S,
    calls: ApiCalls,
}

impl<S, B> Service<Request<Body>> for Noting<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let calls = self.calls.clone();
        if calls.log().watches_begin_in_the_past {
            *request.uri_mut() = in_the_past(request.uri());
        }
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            calls.log().calls.push(Call { method, uri, status: answer.status().as_u16() });
            Ok(answer)
        }
        .boxed()
    }
}

/// The same watch from the first version of all.
fn in_the_past(uri: &Uri) -> Uri {
    let text = uri.to_string();
    match (text.contains("watch=true"), text.split_once("resourceVersion=")) {
        (true, Some((before, after))) => {
            let rest = after.split_once('&').map(|(_, rest)| format!("&{rest}")).unwrap_or_default();
            format!("{before}resourceVersion=1{rest}").parse().unwrap()
        }
        _ => uri.clone(),
    }
}
