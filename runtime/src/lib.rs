//! What the operator and the relay need of their process: a [`log`] whose level changes while they run, and ports
//! that take IPv4 and IPv6 alike ([`listen`]).

pub mod listen;
pub mod log;
pub mod tls_provider;
