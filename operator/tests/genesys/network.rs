//! The way to Genesys Cloud: private authorities, and the proxies that the environment names.

use std::sync::Arc;

use presenceroute_crds::presence_route::TokenRequest;
use presenceroute_operator::genesys::{Access, Genesys, GenesysError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
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

    /// A server's side of TLS, for `localhost`.
    fn acceptor(&self) -> TlsAcceptor {
        presenceroute_operator::tls::install_crypto_provider();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
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
    let acceptor = authority.acceptor();
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
        Genesys::new().account(access).unwrap()
    };
    with_ca(Some(&authority.pem)).create(&desired()).await.unwrap();
    assert_eq!(organisation.simulator.registrations().len(), 1);

    // Of several authorities in one file, any will do.
    let both = format!("{}{}", stranger.pem, authority.pem);
    assert_eq!(with_ca(Some(&both)).find_by_name(NAME).await.unwrap().registrations.len(), 1);

    let error = with_ca(Some(&stranger.pem)).find_by_name(NAME).await.unwrap_err();
    assert!(matches!(error, GenesysError::Unreachable { sent: false, .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

/// Known to nobody but the proxy.
const BEHIND_THE_PROXY: &str = "http://api.genesys.invalid";

#[tokio::test]
#[ignore = "the_proxies_of_the_environment_are_used runs it"]
async fn calls_go_through_the_proxy() {
    let access = Access {
        api_url: BEHIND_THE_PROXY.to_owned(),
        token_path: "/api/v2/oauth/token".to_owned(),
        event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
        token_request: TokenRequest::Json,
        client_id: "client".to_owned(),
        client_secret: CLIENT_SECRET.into(),
        ca_pem: None,
    };
    Genesys::new().account(access).unwrap().create(&desired()).await.unwrap();
}

#[tokio::test]
async fn the_proxies_of_the_environment_are_used() {
    let organisation = Organisation::new().await;
    // The simulator takes a request for any host, as a proxy does.
    let proxy = format!("http://{}", organisation.running.address());
    let run = |environment: Vec<(&'static str, String)>| {
        tokio::task::spawn_blocking(move || {
            let environment: Vec<_> =
                environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            alone("network::calls_go_through_the_proxy", &environment)
        })
    };
    run(vec![("HTTP_PROXY", proxy.clone())]).await.unwrap().unwrap();
    assert_eq!(organisation.simulator.registrations().len(), 1);

    let spared = vec![("HTTP_PROXY", proxy), ("NO_PROXY", "api.genesys.invalid".to_owned())];
    let said = run(spared).await.unwrap().unwrap_err();
    assert!(said.contains("Unreachable"), "NO_PROXY is heeded: {said}");
    assert_eq!(organisation.simulator.registrations().len(), 1);
}
