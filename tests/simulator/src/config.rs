//! The settings of a simulated organisation: limits and behaviour that differ between real ones.
//! The defaults are the contract's; `main` fills the same fields from flags and variables.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use uuid::{Uuid, uuid};

/// The addresses and the organisation's behaviour.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API (and the control API, unless it has its own address) listens. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// A separate address for the control API; `None` serves it beside the API.
    pub control_listen: Option<SocketAddr>,
    /// The one OAuth client that gets a token; `None` gives one to any non-empty id and secret.
    pub client: Option<OauthClient>,
    /// Path of the token endpoint, for organisations that have it elsewhere.
    pub token_path: String,
    /// Path of the registrations' collection, for organisations that have it elsewhere.
    pub event_bridges_path: String,
    /// How long a token is valid; the response has it as `expires_in` in whole seconds.
    pub token_lifetime: Duration,
    /// Requests a minute for each client, token requests not counted. 0 is no limit.
    pub rate_limit_per_minute: u32,
    /// The largest page of registrations, whatever `pageSize` is requested; at least 1.
    pub page_size_cap: u32,
    /// Whether two registrations may have one name.
    pub duplicate_names: DuplicateNames,
    /// The status of a successful creation.
    pub created_status: CreatedStatus,
    /// The header that carries a delivery's signature.
    pub signature_header: String,
    /// The wait before a delivery's first retry; each later one is `backoffMultiplier` times longer, or twice as long where
    /// the event bus delivers.
    pub retry_base_delay: Duration,
    /// How long a delivery waits for the endpoint's whole answer before it counts as none.
    pub delivery_timeout: Duration,
    /// A PEM file with further certificate authorities that are trusted for https endpoints.
    pub ca_file: Option<PathBuf>,
    /// The organisation's id, a part of the names of its event sources.
    pub organization_id: Uuid,
    /// How long an integration takes to become active or inactive.
    pub activation_delay: Duration,
    /// How long a deleted integration is still there.
    pub deletion_delay: Duration,
}

/// An OAuth client-credentials client.
#[derive(Clone, Debug)]
pub struct OauthClient {
    /// The client's id.
    pub id: String,
    /// The client's secret.
    pub secret: SecretString,
}

/// Whether the server itself prevents two registrations with one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateNames {
    /// Both are kept: the client itself has to avoid the second.
    Allow,
    /// The second is answered 409.
    Refuse,
}

/// The status of a successful creation; real servers send either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreatedStatus {
    /// 200
    Ok,
    /// 201
    Created,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8090)),
            control_listen: None,
            client: None,
            token_path: "/api/v2/oauth/token".to_owned(),
            event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
            token_lifetime: Duration::from_secs(86_400),
            rate_limit_per_minute: 300,
            page_size_cap: 100,
            duplicate_names: DuplicateNames::Allow,
            created_status: CreatedStatus::Created,
            signature_header: "X-Genesys-Event-Signature".to_owned(),
            retry_base_delay: Duration::from_secs(1),
            delivery_timeout: Duration::from_secs(5),
            ca_file: None,
            organization_id: uuid!("40000000-0000-4000-8000-000000000001"),
            activation_delay: Duration::ZERO,
            deletion_delay: Duration::ZERO,
        }
    }
}
