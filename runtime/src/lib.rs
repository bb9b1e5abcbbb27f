//! What the programs need of their process: a [`log`] whose level changes while they run, ports that take IPv4 and IPv6
//! alike ([`listen`]), files that change while they run ([`follow`], [`mounted`]), and tokens by the client-credentials
//! grant ([`oauth_token`]). Nothing here knows an event, a route or a cluster.

pub mod follow;
pub mod listen;
pub mod log;
pub mod mounted;
pub mod oauth_token;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls_provider;
