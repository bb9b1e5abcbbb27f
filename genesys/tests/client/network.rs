//! The network: private certificate authorities, and the proxies that the environment names.

use presenceroute_core::genesys_api::TokenRequest;
use presenceroute_genesys::{Access, Genesys, GenesysError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::alone;
use crate::authority::{Authority, https};
use crate::organisation::{CLIENT_SECRET, NAME, Organisation, desired};

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_given() {
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

/// A host that only the proxy reaches.
const BEHIND_THE_PROXY: &str = "http://api.genesys.invalid";
const BEHIND_THE_TUNNEL: &str = "https://api.genesys.invalid";
/// The environment variable that holds the authority for what is behind the tunnel.
const AUTHORITY: &str = "AUTHORITY_OF_THE_TEST";

#[tokio::test]
#[ignore = "the_proxies_of_the_environment_are_used runs it"]
async fn calls_go_through_the_proxy() {
    let authority = std::env::var(AUTHORITY).ok();
    let access = Access {
        login_url: None,
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
async fn https_goes_through_a_tunnel_of_the_proxy() {
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
