//! Access to the cluster with the user's own kubeconfig credentials.
//!
//! What is read is shown by the commands, which write through [`Cluster::api`] where they do.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use futures::FutureExt;
use futures::future::select_ok;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, ListParams};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use presenceroute_core::routing::{RoutingError, RoutingTable};
use presenceroute_crds::PresenceRoute;
use presenceroute_manifest::build::config_maps::ROUTING_KEY;
use presenceroute_manifest::build::{ADMIN_PORT, RELAY_COMPONENT, ROUTE_LABEL};
use presenceroute_manifest::dereference::SecretSource;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;

use crate::arguments::ClusterArguments;

/// One namespace of a cluster.
pub(crate) struct Cluster {
    client: Client,
    pub(crate) namespace: String,
}

/// Why the cluster could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("the kubeconfig cannot be used: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("no cluster is configured: {0}; set KUBECONFIG, or pass --kubeconfig")]
    Infer(#[from] InferConfigError),
    #[error("no client for the API server: {0}")]
    Client(kube::Error),
    #[error("there is no {what} in namespace {namespace:?}; choose another by -n")]
    Missing { what: String, namespace: String },
    #[error("{what} cannot be read: {cause}")]
    Read { what: String, cause: kube::Error },
    #[error("the cluster has no PresenceRoute CRD; install the chart, or apply crds/presenceroutes.yaml")]
    Unknown,
    #[error("there is no routing table in ConfigMap {0:?} yet; see the route's status")]
    NoTable(String),
    #[error("the routing table of ConfigMap {name:?} is not valid: {cause}")]
    Table { name: String, cause: RoutingError },
    #[error("pod {pod:?} cannot be reached through the API server: {cause}")]
    Forward { pod: String, cause: String },
}

impl ClusterError {
    fn forward(pod: &str, cause: &dyn fmt::Display) -> Self {
        Self::Forward { pod: pod.to_owned(), cause: cause.to_string() }
    }
}

impl Cluster {
    /// The cluster and the namespace that the arguments, or else the kubeconfig, name.
    pub(crate) async fn connect(arguments: &ClusterArguments) -> Result<Self, ClusterError> {
        presenceroute_runtime::tls_provider::install_crypto_provider();
        let options =
            KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
        let config = match (&arguments.kubeconfig, &arguments.context) {
            (Some(file), _) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
            (None, Some(_)) => Config::from_kubeconfig(&options).await?,
            (None, None) => Config::infer().await?,
        };
        let namespace = arguments.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(ClusterError::Client)?;
        Ok(Self { client, namespace })
    }

    /// A route.
    pub(crate) async fn route(&self, name: &str) -> Result<PresenceRoute, ClusterError> {
        self.get(&format!("PresenceRoute {name:?}"), name).await
    }

    /// The names of all routes.
    pub(crate) async fn route_names(&self) -> Result<Vec<String>, ClusterError> {
        let api: Api<PresenceRoute> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api.list_metadata(&ListParams::default()).await;
        let found = found.map_err(|cause| ClusterError::Read { what: "PresenceRoutes".into(), cause })?;
        Ok(found.items.into_iter().filter_map(|route| route.metadata.name).collect())
    }

    /// All routes of the namespace, or of the cluster.
    pub(crate) async fn routes(&self, of_all_namespaces: bool) -> Result<Vec<PresenceRoute>, ClusterError> {
        let api: Api<PresenceRoute> = match of_all_namespaces {
            true => Api::all(self.client.clone()),
            false => Api::namespaced(self.client.clone(), &self.namespace),
        };
        match api.list(&ListParams::default()).await {
            Ok(found) => Ok(found.items),
            Err(kube::Error::Api(status)) if status.code == 404 => Err(ClusterError::Unknown),
            Err(cause) => Err(ClusterError::Read { what: "PresenceRoutes".into(), cause }),
        }
    }

    /// The relay pods of a route that are not terminating, sorted by name.
    pub(crate) async fn relay_pods(&self, route: &str) -> Result<Vec<Pod>, ClusterError> {
        let (component, relay) = RELAY_COMPONENT;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = api
            .list(&ListParams::default().labels(&format!("{ROUTE_LABEL}={route},{component}={relay}")))
            .await
            .map_err(|cause| ClusterError::Read { what: format!("pods of route {route:?}"), cause })?;
        let mut pods = found.items;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
        Ok(pods)
    }

    /// The table that the relays of a route are to serve.
    pub(crate) async fn routing_table(&self, route: &str) -> Result<RoutingTable, ClusterError> {
        let name = format!("{route}-routing");
        let map: ConfigMap = match self.get(&format!("ConfigMap {name:?}"), &name).await {
            Err(ClusterError::Missing { .. }) => {
                self.route(route).await?;
                return Err(ClusterError::NoTable(name));
            }
            found => found?,
        };
        let text = map.data.as_ref().and_then(|data| data.get(ROUTING_KEY));
        let text = text.ok_or_else(|| ClusterError::NoTable(name.clone()))?;
        RoutingTable::parse(text).map_err(|cause| ClusterError::Table { name, cause })
    }

    /// A page of a relay pod's admin port, through the API server, so that it can be read from outside the cluster: by
    /// the pod's proxy, which a network policy may block, or by a forwarded port, for which users may lack the right. The
    /// first answer counts.
    pub(crate) async fn admin_page(&self, pod: &str, path: &str) -> Result<String, ClusterError> {
        let (page, _) =
            select_ok([self.proxied(pod, path).boxed(), self.forwarded(pod, path).boxed()]).await?;
        Ok(page)
    }

    async fn proxied(&self, pod: &str, path: &str) -> Result<String, ClusterError> {
        let failed = |error: &dyn fmt::Display| ClusterError::forward(pod, error);
        let namespace = &self.namespace;
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{ADMIN_PORT}/proxy{path}");
        let request = http::Request::get(uri).body(Vec::new()).map_err(|error| failed(&error))?;
        self.client.request_text(request).await.map_err(|error| failed(&error))
    }

    async fn forwarded(&self, pod: &str, path: &str) -> Result<String, ClusterError> {
        let failed = |error: reqwest::Error| ClusterError::forward(pod, &error);
        let port = u16::try_from(ADMIN_PORT).map_err(|error| ClusterError::forward(pod, &error))?;
        let url = format!("http://{}{path}", self.forward(pod, port).await?);
        let client = reqwest::Client::builder().no_proxy().build().map_err(failed)?;
        let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        answer.map_err(failed)?.text().await.map_err(failed)
    }

    /// A port of this machine that leads to a port of a pod, through the API server, as long as this program runs.
    pub(crate) async fn forward(&self, pod: &str, port: u16) -> Result<SocketAddr, ClusterError> {
        let failed = |cause: &dyn fmt::Display| ClusterError::forward(pod, cause);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        // A failure to forward shows here, before a client connects.
        let mut first = Some(api.portforward(pod, &[port]).await.map_err(|error| failed(&error))?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| failed(&error))?;
        let address = listener.local_addr().map_err(|error| failed(&error))?;
        let pod = pod.to_owned();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let forwarder = match first.take() {
                    Some(forwarder) => Ok(forwarder),
                    None => api.portforward(&pod, &[port]).await,
                };
                // Without a far end the near one is closed, so that the client does not wait.
                let Some(mut far) = forwarder.ok().and_then(|mut forwarder| forwarder.take_stream(port))
                else {
                    continue;
                };
                tokio::spawn(async move {
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Ok(address)
    }

    /// The objects of one kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads an object that must be there.
    pub(crate) async fn get<K>(&self, what: &str, name: &str) -> Result<K, ClusterError>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        match api.get_opt(name).await {
            Ok(Some(object)) => Ok(object),
            Ok(None) => {
                Err(ClusterError::Missing { what: what.to_owned(), namespace: self.namespace.clone() })
            }
            // A missing object is `None`: here the kind is missing.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(ClusterError::Unknown),
            Err(cause) => Err(ClusterError::Read { what: what.to_owned(), cause }),
        }
    }
}

impl SecretSource for Cluster {
    type Error = kube::Error;

    async fn secret(&self, name: &str) -> Result<Option<Secret>, kube::Error> {
        Api::namespaced(self.client.clone(), &self.namespace).get_opt(name).await
    }
}

/// Whether a pod's readiness probe succeeds.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
