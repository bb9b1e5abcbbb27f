//! The OAuth clients that a route was registered with, kept so that it can be deregistered when the Secret of the user
//! is gone: with its namespace, or deleted before the route.
//!
//! They are kept in a Secret of the route's own, beside that of the user and with a finalizer of the operator, so that
//! the Secret outlasts its deletion until the registration is gone. In memory they would not outlast the operator; in
//! the operator's own namespace, the credentials of all tenants would be in one place. Pure: reading and writing it is
//! left to the caller.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Keeps the Secret until the route's registrations are gone.
pub const CLIENTS_FINALIZER: &str = "presenceroute.io/deregistration";

const CLIENT_ID: &str = "clientId";
const CLIENT_SECRET: &str = "clientSecret";
const CA: &str = "ca.crt";

/// The name of the Secret.
#[must_use]
pub fn secret_name(route: &str) -> String {
    format!("{route}-deregistration")
}

/// One OAuth client, and the CA of the API that it calls.
#[derive(Clone, Debug)]
pub struct KeptClient {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: SecretString,
    /// The API's private CA, in PEM, where it has one.
    pub ca_pem: Option<Vec<u8>>,
}

impl PartialEq for KeptClient {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.secret.expose_secret() == other.secret.expose_secret()
            && self.ca_pem == other.ca_pem
    }
}

/// The clients of a route, by the API and the fingerprint of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptClients(BTreeMap<String, KeptClient>);

impl KeptClients {
    /// The key of a client with this fingerprint at an API.
    #[must_use]
    pub fn key(api_url: &str, fingerprint: &str) -> String {
        let digest =
            Sha256::new().chain_update(fingerprint).chain_update([0]).chain_update(api_url).finalize();
        hex::encode(&digest[..12])
    }

    /// What the Secret holds. A client that is incomplete is left out.
    #[must_use]
    pub fn read(stored: Option<&Secret>) -> Self {
        let Some(data) = stored.and_then(|secret| secret.data.as_ref()) else { return Self::default() };
        let text = |key: &str, part: &str| {
            let bytes = &data.get(&format!("{key}.{part}"))?.0;
            String::from_utf8(bytes.clone()).ok()
        };
        let keys = data.keys().filter_map(|name| name.strip_suffix(CLIENT_ID)?.strip_suffix('.'));
        let client = |key: &str| {
            let ca_pem = data.get(&format!("{key}.{CA}")).map(|bytes| bytes.0.clone());
            Some(KeptClient { id: text(key, CLIENT_ID)?, secret: text(key, CLIENT_SECRET)?.into(), ca_pem })
        };
        Self(keys.filter_map(|key| Some((key.to_owned(), client(key)?))).collect())
    }

    /// What the Secret is to hold.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let parts = self.0.iter().flat_map(|(key, client)| {
            let secret = client.secret.expose_secret().as_bytes();
            let ca = client.ca_pem.as_ref().map(|pem| (CA, pem.as_slice()));
            let parts = [(CLIENT_ID, client.id.as_bytes()), (CLIENT_SECRET, secret)].into_iter().chain(ca);
            parts.map(move |(part, value)| (format!("{key}.{part}"), ByteString(value.to_vec())))
        });
        parts.collect()
    }

    /// Whether no client is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client of this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&KeptClient> {
        self.0.get(key)
    }

    /// Keeps a client, in the place of the one that had its key.
    pub fn keep(&mut self, key: String, client: KeptClient) {
        self.0.insert(key, client);
    }

    /// Drops the clients that no registration needs.
    pub fn retain(&mut self, is_needed: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| is_needed(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str, secret: &str, ca: Option<&str>) -> KeptClient {
        KeptClient { id: id.into(), secret: secret.into(), ca_pem: ca.map(|pem| pem.as_bytes().to_vec()) }
    }

    fn stored(clients: &KeptClients) -> Secret {
        Secret { data: Some(clients.data()), ..Secret::default() }
    }

    #[test]
    fn clients_are_read_as_they_were_kept() {
        let mut clients = KeptClients::default();
        assert_eq!(KeptClients::read(Some(&stored(&clients))), clients);
        assert!(KeptClients::read(None).is_empty());
        let (one, other) = (KeptClients::key("https://a", "f"), KeptClients::key("https://b", "f"));
        assert_ne!(one, other, "one client at two APIs may need two certificates");
        clients.keep(one.clone(), client("id", "hush", None));
        clients.keep(other.clone(), client("id", "hush", Some("pem")));
        assert_eq!(KeptClients::read(Some(&stored(&clients))), clients);
        clients.keep(one.clone(), client("id", "newer", None));
        let read = KeptClients::read(Some(&stored(&clients)));
        assert_eq!(read.get(&one), Some(&client("id", "newer", None)));
        clients.retain(|key| key == other);
        assert_eq!(
            clients.data().keys().collect::<Vec<_>>(),
            [&format!("{other}.ca.crt"), &format!("{other}.clientId"), &format!("{other}.clientSecret"),]
        );
    }

    #[test]
    fn an_incomplete_client_is_left_out_and_none_is_printed() {
        let mut clients = KeptClients::default();
        clients.keep("key".into(), client("id", "hush", None));
        let mut secret = stored(&clients);
        secret.data.as_mut().unwrap().remove("key.clientSecret");
        assert!(KeptClients::read(Some(&secret)).is_empty());
        assert!(!format!("{clients:?}").contains("hush"));
    }
}
