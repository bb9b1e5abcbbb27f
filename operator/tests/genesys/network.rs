//! The way to Genesys Cloud: private authorities, and the proxies that the environment names.

use std::sync::Arc;

use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_crds::PresenceRoute;
use presenceroute_genesys::{Access, Genesys, GenesysError};
use presenceroute_manifest::dereference::dereference;
use presenceroute_manifest::document::Manifest;
use presenceroute_manifest::validate::{SourceModel, validate};
use presenceroute_operator::registration::desired::Desired;
use presenceroute_operator::registration::execute::{CREATE_TIMEOUT, Executor, Outcome};
use presenceroute_operator::registration::schedule::Known;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::alone;
use crate::organisation::{CLIENT_SECRET, NAME, Organisation, desired};

/// An authority of somebody's own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A server's side of TLS, for this host.
    fn acceptor(&self, host: &str) -> TlsAcceptor {
        presenceroute_runtime::tls_provider::install_crypto_provider();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Puts TLS in front of the organisation, and says where.
async fn https(organisation: &Organisation, authority: &Authority) -> String {
    let acceptor = authority.acceptor("localhost");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let behind = organisation.running.address();
    tokio::spawn(async move {
        while let Ok((outside, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us leaves here.
                let Ok(mut outside) = acceptor.accept(outside).await else { return };
                let mut inside = TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn an_api_with_a_certificate_of_a_private_authority_is_trusted_when_the_authority_is_given_and_only_then()
 {
    let organisation = Organisation::new().await;
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let api_url = https(&organisation, &authority).await;
    let with_ca = |ca: Option<&str>| {
        let ca_pem = ca.map(|pem| pem.as_bytes().to_vec());
        let access = Access { api_url: api_url.clone(), ca_pem, ..organisation.access() };
        Genesys::new().client(access).unwrap().event_bridges()
    };
    with_ca(Some(&authority.pem)).create(&desired()).await.unwrap();
    assert_eq!(organisation.simulator.registrations().len(), 1);

    // Of several authorities in one file, any will do.
    let both = format!("{}{}", stranger.pem, authority.pem);
    assert_eq!(with_ca(Some(&both)).find_by_name(NAME).await.unwrap().entities.len(), 1);

    let error = with_ca(Some(&stranger.pem)).find_by_name(NAME).await.unwrap_err();
    assert!(matches!(error, GenesysError::Unreachable { sent: false, .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn the_authority_in_the_secret_that_a_route_names_is_the_one_that_is_trusted() {
    let organisation = Organisation::new().await;
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let api_url = https(&organisation, &authority).await;
    for (trusted, reason) in [(&stranger, Some("Unreachable")), (&authority, None)] {
        let route = json!({
            "apiVersion": "presenceroute.io/v1alpha1", "kind": "PresenceRoute",
            "metadata": {"name": "one", "namespace": "presence", "uid": "1"},
            "spec": {
                "genesys": {
                    "apiUrl": api_url, "credentialsSecretRef": {"name": "oauth"},
                    "api": {"caSecretRef": {"name": "genesys-ca", "key": "bundle.pem"}},
                },
                "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
                "endpoint": {"url": "https://presence.example.com/e"},
                "routes": [{"eventType": "presence:state:changed", "topic": "states"}],
                "kafka": {"bootstrapServers": ["kafka:9092"]},
            },
        });
        let secrets = [
            ("oauth", json!({"clientId": "client", "clientSecret": CLIENT_SECRET})),
            ("webhook", json!({"secret": "sign-me"})),
            ("genesys-ca", json!({"bundle.pem": trusted.pem})),
        ];
        let secrets = secrets
            .map(|(name, data)| json!({"kind": "Secret", "metadata": {"name": name}, "stringData": data}));
        let items: Vec<_> = secrets.into_iter().chain([route.clone()]).collect();
        let manifest = Manifest::parse(&json!({"kind": "List", "items": items}).to_string()).unwrap();
        let route: PresenceRoute = serde_json::from_value(route).unwrap();
        let references = dereference(&route.spec, &manifest).await.unwrap();
        let model = validate(&route, references).unwrap_or_else(|problems| panic!("{problems:?}"));
        let SourceModel::Webhook(webhook) = &model.source;
        let secret = webhook.signing_secret.clone().unwrap();
        let desired = Desired::of(&model, &route.spec.genesys, &secret).unwrap();
        let executor = Executor::new(Genesys::new(), CREATE_TIMEOUT);
        let outcome = executor.ensure(&model.uid, desired, &Known::default()).await;
        let failed = match &outcome {
            Outcome::Failed(failure) => Some(failure.reason),
            _ => None,
        };
        assert_eq!(failed, reason);
    }
    assert_eq!(organisation.simulator.registrations().len(), 1);
}

/// Known to nobody but the proxy.
const BEHIND_THE_PROXY: &str = "http://api.genesys.invalid";
const BEHIND_THE_TUNNEL: &str = "https://api.genesys.invalid";
/// The environment variable that holds the authority for what is behind the tunnel.
const AUTHORITY: &str = "AUTHORITY_OF_THE_TEST";

#[tokio::test]
#[ignore = "the_proxies_of_the_environment_are_used runs it"]
async fn calls_go_through_the_proxy() {
    let authority = std::env::var(AUTHORITY).ok();
    let access = Access {
        api_url: authority.as_ref().map_or(BEHIND_THE_PROXY, |_| BEHIND_THE_TUNNEL).to_owned(),
        token_path: "/api/v2/oauth/token".to_owned(),
        event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
        token_request: TokenRequest::Json,
        client_id: "client".to_owned(),
        client_secret: CLIENT_SECRET.into(),
        ca_pem: authority.map(String::into_bytes),
    };
    Genesys::new().client(access).unwrap().event_bridges().create(&desired()).await.unwrap();
}

/// Calls in a process with this environment.
async fn call_with(environment: Vec<(&'static str, String)>) -> Result<(), String> {
    let call = move || {
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        alone("network::calls_go_through_the_proxy", &environment)
    };
    tokio::task::spawn_blocking(call).await.unwrap()
}

#[tokio::test]
async fn https_goes_through_a_tunnel_that_the_proxy_is_asked_for() {
    let organisation = Organisation::new().await;
    let authority = Authority::new("ours");
    let acceptor = authority.acceptor("api.genesys.invalid");
    let (behind, listener) =
        (organisation.running.address(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let tunnels = tokio::spawn(async move {
        let mut asked = Vec::new();
        let (mut outside, _) = listener.accept().await.unwrap();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(outside.read_u8().await.unwrap());
        }
        outside.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut inside = TcpStream::connect(behind).await.unwrap();
        let mut outside = acceptor.accept(outside).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
        String::from_utf8(asked).unwrap()
    });
    call_with(vec![("HTTPS_PROXY", proxy), (AUTHORITY, authority.pem)]).await.unwrap();
    let asked = tunnels.await.unwrap();
    assert!(asked.starts_with("CONNECT api.genesys.invalid:443 HTTP/1.1\r\n"), "{asked}");
    assert_eq!(organisation.simulator.registrations().len(), 1);
}

#[tokio::test]
async fn the_proxies_of_the_environment_are_used() {
    let organisation = Organisation::new().await;
    // The simulator takes a request for any host, as a proxy does.
    let proxy = format!("http://{}", organisation.running.address());
    call_with(vec![("HTTP_PROXY", proxy.clone())]).await.unwrap();
    assert_eq!(organisation.simulator.registrations().len(), 1);

    let spared = vec![("HTTP_PROXY", proxy), ("NO_PROXY", "api.genesys.invalid".to_owned())];
    let said = call_with(spared).await.unwrap_err();
    assert!(said.contains("Unreachable"), "NO_PROXY is heeded: {said}");
    assert_eq!(organisation.simulator.registrations().len(), 1);
}
