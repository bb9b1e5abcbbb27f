//! Asks relay pods for `/status`, directly or through the API server, and Services whether they lead anywhere.
//!
//! A tenant decides what runs in a relay pod, so an answer is read within bounds: of its size, of the time it takes, of
//! the pods of a route, and of the answers in memory at once. A redirect is not followed, since it would have the
//! operator call an address of the pod's choice.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_manifest::build::ADMIN_PORT;
use reqwest::redirect;

use crate::cache::{PodCache, RouteKey};
use crate::namespace_limits::NamespaceLimits;

use super::report::bounded;
use super::{NoReport, RelayPod, RelayPods, RelayStatusAccess};

/// How long one pod may take to answer, and to take the connection.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How many bytes an answer may have. A thousand topics that Kafka does not have make a tenth of that.
pub(super) const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How many pods of a route are asked. A route with more of them is served, and shown as not live.
pub(super) const MAX_PODS: usize = 100;
/// How many pods are asked at once, of one namespace and of all: the pods of four namespaces that do not answer keep the
/// others waiting for no longer than [`STATUS_TIMEOUT`], and the bodies of all answers together stay within 16 MiB.
const AT_ONCE_IN_NAMESPACE: usize = 16;
const AT_ONCE: usize = 64;

/// Reads what relay pods report.
#[derive(Clone)]
pub struct RelayStatusClient {
    pods: Arc<PodCache>,
    http: reqwest::Client,
    /// The API server, where pods are asked through it.
    api_server: Option<Client>,
    /// For requests whose answer does not matter.
    any_certificate: reqwest::Client,
    limits: Arc<NamespaceLimits>,
    port: u16,
}

impl RelayStatusClient {
    /// Takes the cache of relay pods that a watch fills, and the API server where pods are asked through it.
    pub fn new(pods: Arc<PodCache>, api_server: Option<Client>) -> Result<Self, reqwest::Error> {
        // Pods are asked directly: a proxy of the environment is for the world outside of the cluster.
        let direct = || {
            let builder = reqwest::Client::builder().timeout(STATUS_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
            builder.no_proxy().redirect(redirect::Policy::none())
        };
        let any_certificate = direct().danger_accept_invalid_certs(true).build()?;
        let limits = NamespaceLimits::new(AT_ONCE, AT_ONCE_IN_NAMESPACE);
        let port = u16::try_from(ADMIN_PORT).unwrap_or_default();
        Ok(Self {
            pods,
            http: direct().build()?,
            api_server,
            any_certificate,
            limits: Arc::new(limits),
            port,
        })
    }

    /// Asks every pod of the route that is not being deleted.
    pub async fn read(&self, namespace: &str, route: &str) -> RelayPods {
        let pods = self.pods.of_route(&RouteKey { namespace: namespace.to_owned(), name: route.to_owned() });
        let asked = pods.into_iter().enumerate().map(async |(index, (name, pod))| {
            let report = match pod.address {
                None => Err(NoReport::NoAddress),
                Some(_) if index >= MAX_PODS => Err(NoReport::TooManyPods),
                Some(address) => {
                    let _permit = self.limits.acquire(namespace).await;
                    match &self.api_server {
                        Some(api_server) => self.ask_through(api_server, namespace, &name).await,
                        None => self.ask(SocketAddr::new(address, self.port)).await,
                    }
                }
            };
            RelayPod { name, ready: pod.is_ready, report, obstacle: pod.obstacle, synced: pod.synced }
        });
        let pods = stream::iter(asked).buffered(AT_ONCE_IN_NAMESPACE).collect().await;
        let access = match self.api_server {
            Some(_) => RelayStatusAccess::ApiServer,
            None => RelayStatusAccess::Direct,
        };
        RelayPods { pods, access }
    }

    /// Whether something answers behind a Service. What it answers to this empty request does not matter, nor does its
    /// certificate, which does not name the address that is asked.
    pub async fn answers(&self, cluster_ip: IpAddr, scheme: &str, port: i32) -> bool {
        let Ok(port) = u16::try_from(port) else { return false };
        let url = format!("{scheme}://{}/", SocketAddr::new(cluster_ip, port));
        self.any_certificate.get(url).send().await.is_ok()
    }

    async fn ask(&self, address: SocketAddr) -> Result<RelayStatus, NoReport> {
        let failed = |error: reqwest::Error| {
            if error.is_timeout() && !error.is_connect() { NoReport::Late } else { NoReport::Unreachable }
        };
        let mut answer = self.http.get(format!("http://{address}/status")).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(NoReport::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            take(&mut body, &chunk)?;
        }
        read(&body)
    }

    /// The API server connects to the pod, and answers 502 to 504 when it cannot.
    async fn ask_through(
        &self,
        api_server: &Client,
        namespace: &str,
        pod: &str,
    ) -> Result<RelayStatus, NoReport> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{}/proxy/status", self.port);
        let request = Request::get(path).body(Body::empty()).map_err(|_| NoReport::Unreachable)?;
        let exchange = async {
            let answer = api_server.send(request).await.map_err(|_| NoReport::Unreachable)?;
            match answer.status().as_u16() {
                200 => {}
                403 => return Err(NoReport::Forbidden),
                502..=504 => return Err(NoReport::Unreachable),
                status => return Err(NoReport::Status(status)),
            }
            let mut chunks = answer.into_body().into_data_stream();
            let mut body = Vec::new();
            while let Some(chunk) = chunks.next().await {
                take(&mut body, &chunk.map_err(|_| NoReport::Unreachable)?)?;
            }
            read(&body)
        };
        tokio::time::timeout(STATUS_TIMEOUT, exchange).await.unwrap_or(Err(NoReport::Late))
    }
}

fn take(body: &mut Vec<u8>, chunk: &[u8]) -> Result<(), NoReport> {
    if body.len() + chunk.len() > MAX_ANSWER_BYTES {
        return Err(NoReport::TooLong);
    }
    body.extend_from_slice(chunk);
    Ok(())
}

fn read(body: &[u8]) -> Result<RelayStatus, NoReport> {
    serde_json::from_slice(body).map(bounded).map_err(|_| NoReport::NotAStatus)
}

#[cfg(test)]
mod tests;
