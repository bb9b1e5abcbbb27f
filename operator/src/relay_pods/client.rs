//! Asks relay pods for `/status`, and Services whether they lead anywhere.
//!
//! A tenant decides what runs in a relay pod, so an answer is read within bounds: of its size, of the time it takes, of
//! the pods of a route, and of the answers in memory at once. A redirect is not followed, since it would have the
//! operator call an address of the pod's choice.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use presenceroute_core::relay_status::RelayStatus;
use presenceroute_manifest::build::ADMIN_PORT;
use reqwest::redirect;

use crate::cache::{PodCache, RouteKey};
use crate::namespace_limits::NamespaceLimits;

use super::report::bounded;
use super::{RelayPod, RelayPods};

/// How long one pod may take to answer.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How many bytes an answer may have. A thousand topics that Kafka does not have make a tenth of that.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How many pods of a route are asked. A route with more of them is served, and shown as not live.
const MAX_PODS: usize = 100;
/// How many pods are asked at once, of one namespace and of all: the pods of four namespaces that do not answer keep the
/// others waiting for no longer than [`STATUS_TIMEOUT`], and the bodies of all answers together stay within 16 MiB.
const AT_ONCE_IN_NAMESPACE: usize = 16;
const AT_ONCE: usize = 64;

/// Reads what relay pods report.
#[derive(Clone)]
pub struct RelayStatusClient {
    pods: Arc<PodCache>,
    http: reqwest::Client,
    /// For requests whose answer does not matter.
    any_certificate: reqwest::Client,
    limits: Arc<NamespaceLimits>,
    port: u16,
}

impl RelayStatusClient {
    /// Takes the cache of relay pods that a watch fills.
    pub fn new(pods: Arc<PodCache>) -> Result<Self, reqwest::Error> {
        // Pods are asked directly: a proxy of the environment is for the world outside of the cluster.
        let direct = || {
            let builder = reqwest::Client::builder().timeout(STATUS_TIMEOUT).no_proxy();
            builder.redirect(redirect::Policy::none())
        };
        let any_certificate = direct().danger_accept_invalid_certs(true).build()?;
        let limits = NamespaceLimits::new(AT_ONCE, AT_ONCE_IN_NAMESPACE);
        let port = u16::try_from(ADMIN_PORT).unwrap_or_default();
        Ok(Self { pods, http: direct().build()?, any_certificate, limits: Arc::new(limits), port })
    }

    /// Asks every pod of the route that is not being deleted.
    pub async fn read(&self, namespace: &str, route: &str) -> RelayPods {
        let pods = self.pods.of_route(&RouteKey { namespace: namespace.to_owned(), name: route.to_owned() });
        let asked = pods.into_iter().enumerate().map(async |(index, (name, pod))| {
            let report = match pod.address {
                None => Err("it has no address yet".to_owned()),
                Some(_) if index >= MAX_PODS => {
                    Err(format!("the operator asks at most {MAX_PODS} pods of a route"))
                }
                Some(address) => {
                    let _permit = self.limits.acquire(namespace).await;
                    self.report(SocketAddr::new(address, self.port)).await
                }
            };
            RelayPod { name, ready: pod.is_ready, report, obstacle: pod.obstacle, synced: pod.synced }
        });
        RelayPods { pods: stream::iter(asked).buffered(AT_ONCE_IN_NAMESPACE).collect().await }
    }

    /// Whether every pod of the route was started with this configuration, and one of them is ready.
    pub fn all_run(&self, namespace: &str, route: &str, config_hash: &str) -> bool {
        self.pods.all_run(&RouteKey { namespace: namespace.to_owned(), name: route.to_owned() }, config_hash)
    }

    /// Whether something answers behind a Service. What it answers to this empty request does not matter, nor does its
    /// certificate, which does not name the address that is asked.
    pub async fn answers(&self, cluster_ip: IpAddr, scheme: &str, port: i32) -> bool {
        let Ok(port) = u16::try_from(port) else { return false };
        let url = format!("{scheme}://{}/", SocketAddr::new(cluster_ip, port));
        self.any_certificate.get(url).send().await.is_ok()
    }

    async fn report(&self, address: SocketAddr) -> Result<RelayStatus, String> {
        let failed = |error: reqwest::Error| {
            if error.is_timeout() {
                "its /status does not answer within a second".to_owned()
            } else {
                "its /status cannot be reached".to_owned()
            }
        };
        let mut answer = self.http.get(format!("http://{address}/status")).send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("its /status answers {}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(format!("its /status answers more than {} KiB", MAX_ANSWER_BYTES / 1024));
            }
            body.extend_from_slice(&chunk);
        }
        let report = serde_json::from_slice(&body);
        report.map(bounded).map_err(|_| "its /status does not answer as a relay does".to_owned())
    }
}

#[cfg(test)]
mod tests;
