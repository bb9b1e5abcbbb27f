//! What the operator and the relay need of their process: a [`log`] whose level changes while they run, ports that take
//! IPv4 and IPv6 alike ([`listen`]), and tokens by the client-credentials grant ([`oauth_token`]).

pub mod listen;
pub mod log;
pub mod oauth_token;
pub mod tls_provider;
