//! Which hosts the client sends requests to, so that a manifest cannot make this process reach addresses that its author
//! cannot reach, and whose words it repeats, so that no author reads there what only this process can.
//!
//! The decision is [`allowed_hosts`]; here are the names' addresses. Names are resolved once for a connection, and the
//! addresses that were checked are the ones connected to. Where a proxy of the environment is used, the proxy resolves
//! the names, and has to refuse addresses itself; the proxy's own name is resolved here.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use presenceroute_core::allowed_hosts::{self, HostList, special_address};
use presenceroute_core::region::is_host_of_region;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::Url;

use crate::error::{GenesysError, quote};

/// Which hosts requests may go to. The default checks nothing, and repeats the words of every server.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy(Option<Arc<Checks>>);

#[derive(Debug)]
struct Checks {
    /// `None`: every host.
    allowed: Option<HostList>,
}

impl Checks {
    /// Whether a host is listed by its whole name, and so may have any address.
    fn names(&self, host: &str) -> bool {
        self.allowed.as_ref().is_some_and(|allowed| allowed.names(host))
    }
}

impl HostPolicy {
    /// Requests go to the hosts of this list, or to every host without one. Special addresses are refused for every host
    /// that is not listed by its whole name. The words of a server are repeated if its host is listed or of a region.
    #[must_use]
    pub fn new(allowed: Option<HostList>) -> Self {
        Self(Some(Arc::new(Checks { allowed })))
    }

    /// Whether requests may go to this URL, as far as is known before its host is resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), GenesysError> {
        let Some(checks) = &self.0 else { return Ok(()) };
        allowed_hosts::check(checks.allowed.as_ref(), url)
            .map_err(|refusal| not_allowed(url.host_str().unwrap_or_default(), &refusal.to_string()))
    }

    /// Whether the words of this URL's server may appear in the route's conditions, events and logs.
    pub(crate) fn may_quote(&self, url: &Url) -> bool {
        let Some(checks) = &self.0 else { return true };
        let host = url.host_str().unwrap_or_default();
        is_host_of_region(host) || checks.allowed.as_ref().is_some_and(|allowed| allowed.contains(host))
    }

    /// What resolves names under this policy; `None` where nothing is checked.
    pub(crate) fn resolver(&self) -> Option<CheckedResolver> {
        self.0.clone().map(|checks| CheckedResolver { checks })
    }
}

/// The addresses of a name that may be connected to: none.
#[derive(Debug, Error)]
#[error("{name} resolves to {refused}")]
pub(crate) struct AddressRefused {
    name: String,
    refused: Refused,
}

/// A name without any address, in the words of this system's resolver.
#[derive(Debug, Error)]
#[error("the name cannot be resolved: {0}")]
pub(crate) struct NotResolved(io::Error);

/// An address that is refused, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    address: IpAddr,
    kind: &'static str,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}", self.address, self.kind)
    }
}

/// The error for a connection that failed, where an address was refused: the policy's and not the network's.
pub(crate) fn refusal(host: &str, error: &(dyn Error + 'static)) -> Option<GenesysError> {
    let refused = causes(error).find_map(|cause| cause.downcast_ref::<AddressRefused>())?;
    Some(not_allowed(host, &refused.to_string()))
}

/// An error and what it comes from, outermost first. An I/O error does not name what it wraps as its source.
pub(crate) fn causes<'e>(
    error: &'e (dyn Error + 'static),
) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn not_allowed(host: &str, cause: &str) -> GenesysError {
    GenesysError::HostNotAllowed { host: quote(host, &[]), cause: cause.to_owned() }
}

/// The system's resolver without the addresses that the policy refuses.
pub(crate) struct CheckedResolver {
    checks: Arc<Checks>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_listed = self.checks.names(name.as_str());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(NotResolved)?;
            let addresses: Vec<SocketAddr> = found.collect();
            if is_listed {
                return Ok(Box::new(addresses.into_iter()) as Addrs);
            }
            Ok(Box::new(permitted(name.as_str(), addresses)?.into_iter()) as Addrs)
        })
    }
}

/// The addresses that are not refused, of which there must be one.
fn permitted(name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, AddressRefused> {
    let mut first = None;
    let mut permitted = addresses;
    permitted.retain(|address| {
        let address = address.ip();
        let kind = special_address(address);
        first = first.or(kind.map(|kind| Refused { address, kind }));
        kind.is_none()
    });
    match first {
        Some(refused) if permitted.is_empty() => Err(AddressRefused { name: name.to_owned(), refused }),
        _ => Ok(permitted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hosts: &[&str]) -> HostPolicy {
        HostPolicy::new(Some(HostList::new(hosts).unwrap()))
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn without_a_policy_every_host_is_allowed() {
        let policy = HostPolicy::default();
        for text in ["https://api.mypurecloud.ie", "http://127.0.0.1:8090", "http://169.254.169.254"] {
            assert!(policy.check(&url(text)).is_ok() && policy.may_quote(&url(text)), "{text}");
        }
        assert!(policy.resolver().is_none());
    }

    #[test]
    fn a_policy_without_a_list_refuses_special_addresses() {
        let policy = HostPolicy::new(None);
        assert!(policy.check(&url("http://simulator.presence:8090")).is_ok());
        let error = policy.check(&url("http://127.0.0.1:8090")).unwrap_err().to_string();
        assert!(error.contains("host \"127.0.0.1\": it is an address of this machine itself"), "{error}");
    }

    #[test]
    fn only_listed_hosts_and_regions_are_quoted() {
        for (policy, text, may_quote) in [
            (HostPolicy::new(None), "https://api.mypurecloud.ie", true),
            (HostPolicy::new(None), "https://login.mypurecloud.ie/oauth", true),
            (HostPolicy::new(None), "https://api.mypurecloud.ie.example.com", false),
            (HostPolicy::new(None), "http://10.0.0.1", false),
            (policy(&["gateway.example.com", "*.corp.example"]), "https://gateway.example.com", true),
            (policy(&["gateway.example.com", "*.corp.example"]), "https://a.corp.example", true),
            (policy(&["gateway.example.com"]), "https://other.example.com", false),
        ] {
            assert_eq!(policy.may_quote(&url(text)), may_quote, "{text}");
        }
    }

    #[test]
    fn refused_addresses_are_taken_out_of_what_a_name_resolves_to() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
        };
        let mixed = addresses(&["127.0.0.1", "10.0.0.1", "fe80::1", "2001:db8::1"]);
        assert_eq!(permitted("a.example", mixed).unwrap(), addresses(&["10.0.0.1", "2001:db8::1"]));
        let error = permitted("a.example", addresses(&["169.254.169.254", "::1"])).unwrap_err();
        assert_eq!(error.to_string(), "a.example resolves to 169.254.169.254, a link-local address");
        assert_eq!(permitted("a.example", Vec::new()).unwrap(), []);
    }

    async fn resolve(policy: &HostPolicy, name: &str) -> Result<usize, String> {
        let resolver = policy.resolver().unwrap();
        resolver.resolve(name.parse().unwrap()).await.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_unless_it_is_listed() {
        for (policy, is_allowed) in [
            (HostPolicy::new(None), false),
            (policy(&["api.example.com"]), false),
            (policy(&["*.localhost"]), false),
            (policy(&["localhost"]), true),
            (policy(&["LOCALHOST."]), true),
        ] {
            for name in ["localhost", "LOCALHOST"] {
                let resolved = resolve(&policy, name).await;
                assert_eq!(resolved.is_ok(), is_allowed, "{name} of {policy:?}: {resolved:?}");
                if let Err(error) = resolved {
                    assert!(error.contains("an address of this machine itself"), "{error}");
                }
            }
        }
    }
}
