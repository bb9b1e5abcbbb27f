//! Which hosts the client sends requests to, so that a manifest cannot make this process reach addresses that its author
//! cannot reach.
//!
//! A policy has a list of allowed hosts, and refuses the addresses of this machine and of its link (among them the
//! metadata service of cloud providers) also where a name resolves to one. Names are resolved once for a connection, and
//! the addresses that were checked are the ones connected to. Where a proxy of the environment is used, the proxy
//! resolves the names, and has to refuse addresses itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::{Host, Url};

use crate::error::{GenesysError, quote};

/// The prefix of NAT64 (RFC 6052), behind which an IPv4 address stands.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// The metadata service of Amazon EC2 over IPv6, which is no link-local address.
const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// Which hosts requests may go to. The default allows everything.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    /// `None` where nothing is checked.
    allowed: Option<Arc<[Pattern]>>,
}

/// An entry of the list of allowed hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    /// With the dot that it begins with.
    Suffix(String),
}

/// An entry that is neither a host nor `*.` and a domain.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no host; write a name such as api.mypurecloud.ie, an IP address, or *.mypurecloud.ie for all below it"
)]
pub struct InvalidHost(String);

/// The addresses of a name that may be connected to: none.
#[derive(Debug, Error)]
#[error("it resolves to {0}")]
pub(crate) struct AddressRefused(Refused);

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

impl HostPolicy {
    /// Requests go to these hosts, or to every host where there are none: a name, an IP address, or `*.` and a domain
    /// for all names below it. Addresses of this machine and its link are refused for every host that is not listed by
    /// its whole name.
    ///
    /// # Errors
    /// [`InvalidHost`] for the first entry that is neither.
    pub fn new<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Result<Self, InvalidHost> {
        let allowed = hosts.into_iter().map(|host| Pattern::parse(host.as_ref()));
        Ok(Self { allowed: Some(allowed.collect::<Result<_, _>>()?) })
    }

    /// Whether requests may go to this URL, as far as is known before its host is resolved.
    pub(crate) fn check(&self, url: &Url) -> Result<(), GenesysError> {
        let (Some(allowed), Some(host)) = (&self.allowed, url.host()) else { return Ok(()) };
        let name = normal(&host.to_string());
        if !allowed.is_empty() && !allowed.iter().any(|pattern| pattern.matches(&name)) {
            return Err(not_allowed(&name, "it is not in the list of allowed hosts"));
        }
        let address = match host {
            Host::Domain(_) => return Ok(()),
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        match refused(address) {
            Some(kind) if !is_listed(allowed, &name) => Err(not_allowed(&name, &format!("it is {kind}"))),
            _ => Ok(()),
        }
    }

    /// What resolves names under this policy; `None` where nothing is checked.
    pub(crate) fn resolver(&self) -> Option<CheckedResolver> {
        self.allowed.clone().map(|allowed| CheckedResolver { allowed })
    }
}

/// The error for a connection that failed, where an address was refused: the policy's and not the network's.
pub(crate) fn refusal(host: &str, error: &(dyn std::error::Error + 'static)) -> Option<GenesysError> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(refused) = cause.downcast_ref::<AddressRefused>() {
            return Some(not_allowed(host, &refused.to_string()));
        }
        next = cause.source();
    }
    None
}

fn not_allowed(host: &str, cause: &str) -> GenesysError {
    GenesysError::HostNotAllowed { host: quote(host, &[]), cause: cause.to_owned() }
}

/// A host as it is compared.
fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn is_listed(allowed: &[Pattern], name: &str) -> bool {
    allowed.iter().any(|pattern| matches!(pattern, Pattern::Exact(exact) if exact == name))
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(quote(text, &[]));
        let text = text.trim();
        let (is_suffix, host) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => Host::Ipv6(address),
            Err(_) => Host::parse(host).map_err(|_| invalid())?,
        };
        let name = normal(&host.to_string());
        let is_name = matches!(&host, Host::Domain(_)) && !name.is_empty() && !name.contains('*');
        match (is_suffix, is_name) {
            (true, true) => Ok(Self::Suffix(format!(".{name}"))),
            (false, true) => Ok(Self::Exact(name)),
            (false, false) if !matches!(host, Host::Domain(_)) => Ok(Self::Exact(name)),
            _ => Err(invalid()),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
        }
    }
}

/// What an address is that no request goes to.
fn refused(address: IpAddr) -> Option<&'static str> {
    const LOOPBACK: &str = "an address of this machine itself";
    const LINK_LOCAL: &str = "a link-local address";
    match address {
        IpAddr::V4(address) if address.is_loopback() || address.octets()[0] == 0 => Some(LOOPBACK),
        IpAddr::V4(address) if address.is_link_local() => Some(LINK_LOCAL),
        IpAddr::V4(_) => None,
        IpAddr::V6(address) if address.is_loopback() || address.is_unspecified() => Some(LOOPBACK),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(LINK_LOCAL),
        IpAddr::V6(EC2_METADATA) => Some("a metadata service"),
        IpAddr::V6(address) => refused(IpAddr::V4(embedded(address)?)),
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, or translated by NAT64.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    address.to_ipv4().or_else(|| {
        let [.., high, low] = segments;
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        (segments[..6] == NAT64).then(|| Ipv4Addr::new(a, b, c, d))
    })
}

/// The system's resolver without the addresses that the policy refuses.
pub(crate) struct CheckedResolver {
    allowed: Arc<[Pattern]>,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_listed = is_listed(&self.allowed, &normal(name.as_str()));
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if is_listed {
                return Ok(Box::new(addresses.into_iter()) as Addrs);
            }
            Ok(Box::new(permitted(addresses)?.into_iter()) as Addrs)
        })
    }
}

/// The addresses that are not refused, of which there must be one.
fn permitted(addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, AddressRefused> {
    let mut first = None;
    let mut permitted = addresses;
    permitted.retain(|address| {
        let address = address.ip();
        let kind = refused(address);
        first = first.or(kind.map(|kind| Refused { address, kind }));
        kind.is_none()
    });
    match first {
        Some(refused) if permitted.is_empty() => Err(AddressRefused(refused)),
        _ => Ok(permitted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &[&str], url: &str) -> Result<(), String> {
        let policy = HostPolicy::new(hosts).unwrap();
        policy.check(&Url::parse(url).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_policy_every_host_is_allowed() {
        for url in ["https://api.mypurecloud.ie", "http://127.0.0.1:8090", "http://169.254.169.254"] {
            assert!(HostPolicy::default().check(&Url::parse(url).unwrap()).is_ok(), "{url}");
        }
        assert!(HostPolicy::default().resolver().is_none());
    }

    #[test]
    fn an_empty_list_allows_every_host() {
        for url in ["https://api.mypurecloud.ie", "http://simulator.presence:8090", "http://10.0.0.1"] {
            assert_eq!(check(&[], url), Ok(()), "{url}");
        }
    }

    #[test]
    fn a_list_allows_its_hosts_and_no_other() {
        let hosts = ["api.mypurecloud.ie", "*.PureCloud.example.", "10.0.0.1", "fd00::1"];
        for url in [
            "https://api.mypurecloud.ie",
            "https://API.mypurecloud.ie.:8443/x",
            "https://api.purecloud.example",
            "https://a.b.purecloud.example",
            "http://10.0.0.1:80",
            "http://0x0a000001",
            "http://[fd00::1]",
        ] {
            assert_eq!(check(&hosts, url), Ok(()), "{url}");
        }
        for url in [
            "https://mypurecloud.ie",
            "https://api.mypurecloud.ie.example.com",
            "https://purecloud.example",
            "https://evilpurecloud.example",
            "http://10.0.0.2",
            "http://[fd00::2]",
        ] {
            let error = check(&hosts, url).unwrap_err();
            assert!(error.contains("not in the list of allowed hosts"), "{url}: {error}");
        }
    }

    #[test]
    fn an_entry_that_is_no_host_is_refused() {
        for host in ["", "*", "*.", "a.*.b", "*.10.0.0.1", "https://x", "x/y", "x:443", "a b", "*x.y"] {
            let error = HostPolicy::new(["ok.example", host]).unwrap_err();
            assert!(error.to_string().contains("is no host"), "{host}: {error}");
        }
    }

    /// Addresses of this machine and its link, in every spelling that a URL takes.
    const REFUSED: [&str; 16] = [
        "127.0.0.1",
        "127.8.9.1",
        "0x7f.1",
        "2130706433",
        "0.0.0.0",
        "0",
        "169.254.169.254",
        "0xa9fea9fe",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[febf::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::169.254.169.254]",
        "[fd00:ec2::254]",
    ];

    #[test]
    fn addresses_of_the_machine_and_its_link_are_refused() {
        for host in REFUSED {
            let error = check(&[], &format!("http://{host}:8090")).unwrap_err();
            assert!(error.contains("address") || error.contains("metadata"), "{host}: {error}");
        }
        for host in
            ["10.0.0.1", "192.168.1.1", "169.253.0.1", "128.0.0.1", "[fd00::1]", "[64:ff9b::10.0.0.1]"]
        {
            assert_eq!(check(&[], &format!("http://{host}")), Ok(()), "{host}");
        }
    }

    #[test]
    fn an_address_that_is_listed_is_allowed() {
        for host in ["127.0.0.1", "::1", "[::1]", "169.254.169.254"] {
            let policy = HostPolicy::new([host]).unwrap();
            let host = if host.contains(':') {
                format!("[{}]", host.trim_matches(['[', ']']))
            } else {
                host.to_owned()
            };
            assert!(policy.check(&Url::parse(&format!("http://{host}:8090")).unwrap()).is_ok(), "{host}");
        }
    }

    #[test]
    fn refused_addresses_are_taken_out_of_what_a_name_resolves_to() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
        };
        let mixed = addresses(&["127.0.0.1", "10.0.0.1", "fe80::1", "2001:db8::1"]);
        assert_eq!(permitted(mixed).unwrap(), addresses(&["10.0.0.1", "2001:db8::1"]));
        let error = permitted(addresses(&["169.254.169.254", "::1"])).unwrap_err();
        assert_eq!(error.to_string(), "it resolves to 169.254.169.254, a link-local address");
        assert_eq!(permitted(Vec::new()).unwrap(), []);
    }

    async fn resolve(policy: &HostPolicy, name: &str) -> Result<usize, String> {
        let resolver = policy.resolver().unwrap();
        resolver.resolve(name.parse().unwrap()).await.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_unless_it_is_listed() {
        for (hosts, is_allowed) in [
            (vec![], false),
            (vec!["api.example.com"], false),
            (vec!["*.localhost"], false),
            (vec!["localhost"], true),
            (vec!["LOCALHOST."], true),
        ] {
            let policy = HostPolicy::new(&hosts).unwrap();
            for name in ["localhost", "LOCALHOST"] {
                let resolved = resolve(&policy, name).await;
                assert_eq!(resolved.is_ok(), is_allowed, "{name} of {hosts:?}: {resolved:?}");
                if let Err(error) = resolved {
                    assert!(error.contains("an address of this machine itself"), "{error}");
                }
            }
        }
    }
}
