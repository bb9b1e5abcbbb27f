//! A host policy over real connections.

use presenceroute_genesys::{Access, Genesys, GenesysError, HostPolicy};

use crate::organisation::{NAME, Organisation, desired};

fn genesys(hosts: &[&str]) -> Genesys {
    Genesys::builder().host_policy(HostPolicy::new(hosts).unwrap()).build()
}

/// The organisation's API under another name for its host.
fn access(organisation: &Organisation, host: &str) -> Access {
    let api_url = format!("http://{host}:{}", organisation.running.address().port());
    Access { api_url, ..organisation.access() }
}

#[tokio::test]
async fn an_address_of_this_machine_is_refused_before_any_request() {
    let organisation = Organisation::new().await;
    for host in ["127.0.0.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let error = genesys(&[]).client(access(&organisation, host)).unwrap_err();
        assert_eq!((error.reason(), error.is_permanent()), ("HostNotAllowed", true), "{host}: {error}");
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_this_machine_is_refused() {
    let organisation = Organisation::new().await;
    for hosts in [vec![], vec!["*.localhost", "*.invalid", "localhost"]] {
        let host = if hosts.is_empty() { "localhost" } else { "a.localhost" };
        let client = genesys(&hosts).client(access(&organisation, host)).unwrap().event_bridges();
        let errors = [
            client.create(&desired()).await.unwrap_err(),
            client.find_by_name(NAME).await.unwrap_err(),
            client.delete("1").await.unwrap_err(),
        ];
        for error in errors {
            // A system may not resolve names below localhost at all.
            let is_unknown = host == "a.localhost" && matches!(error, GenesysError::Unreachable { .. });
            assert!(is_unknown || error.reason() == "HostNotAllowed", "{error}");
            assert!(!error.may_have_created(), "{error}");
        }
    }
    assert_eq!(organisation.simulator.request_counts().total, 0);
}

#[tokio::test]
async fn a_host_that_is_listed_is_called() {
    let organisation = Organisation::new().await;
    for host in ["localhost", "127.0.0.1"] {
        let client = genesys(&[host]).client(access(&organisation, host)).unwrap().event_bridges();
        let created = client.create(&desired()).await.unwrap();
        client.delete(&created.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_is_not_listed_is_refused_by_name() {
    let organisation = Organisation::new().await;
    for host in ["127.0.0.1", "localhost", "api.example.com", "10.0.0.1"] {
        let error = genesys(&["*.mypurecloud.ie"]).client(access(&organisation, host)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("host {host:?}")) && text.contains("allowed hosts"), "{text}");
    }
}

#[tokio::test]
async fn without_a_policy_this_machine_is_called() {
    let organisation = Organisation::new().await;
    let client = Genesys::new().client(access(&organisation, "localhost")).unwrap().event_bridges();
    client.create(&desired()).await.unwrap();
}
