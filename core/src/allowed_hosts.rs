//! Which hosts a program may call for others: those of a list, and never an address of the machine itself, its link or a
//! metadata service that the list does not name.
//!
//! A pure decision over names and addresses. Resolving names is left to the caller, which asks again for each address
//! ([`special_address`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::url::{Host, Url};
use serde::Deserialize;
use thiserror::Error;

/// Hosts by name, IP address or domain. An empty list has no host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct HostList(Vec<Pattern>);

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

/// Why a host may not be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRefusal {
    /// It is not in the list.
    NotListed,
    /// It is a special address, of the kind that the text names, and not in the list by its whole name.
    SpecialAddress(&'static str),
}

impl fmt::Display for HostRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed => formatter.write_str("it is not in the list of allowed hosts"),
            Self::SpecialAddress(kind) => write!(formatter, "it is {kind}"),
        }
    }
}

/// Whether the URL's host may be called, as far as is known before it is resolved. `None` for the list is every host; a
/// special address must be listed in any case.
///
/// # Errors
/// Why not.
pub fn check(allowed: Option<&HostList>, url: &Url) -> Result<(), HostRefusal> {
    let Some(host) = url.host() else { return Ok(()) };
    let name = normal(&host.to_string());
    if allowed.is_some_and(|allowed| !allowed.contains(&name)) {
        return Err(HostRefusal::NotListed);
    }
    let address = match host {
        Host::Domain(_) => return Ok(()),
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
    };
    match special_address(address) {
        Some(kind) if !allowed.is_some_and(|allowed| allowed.names(&name)) => {
            Err(HostRefusal::SpecialAddress(kind))
        }
        _ => Ok(()),
    }
}

impl HostList {
    /// The list of these: a name, an IP address, or `*.` and a domain for all names below it.
    ///
    /// # Errors
    /// [`InvalidHost`] for the first entry that is none of these.
    pub fn new<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Result<Self, InvalidHost> {
        hosts.into_iter().map(|host| Pattern::parse(host.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a host is in the list. Neither the case nor a dot at its end matters.
    #[must_use]
    pub fn contains(&self, host: &str) -> bool {
        let name = normal(host);
        self.0.iter().any(|pattern| pattern.matches(&name))
    }

    /// Whether the list has a host by its whole name, not by its domain.
    #[must_use]
    pub fn names(&self, host: &str) -> bool {
        let name = normal(host);
        self.0.iter().any(|pattern| matches!(pattern, Pattern::Exact(exact) if *exact == name))
    }
}

impl TryFrom<Vec<String>> for HostList {
    type Error = InvalidHost;

    fn try_from(hosts: Vec<String>) -> Result<Self, InvalidHost> {
        Self::new(hosts)
    }
}

/// A host as it is compared.
fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(text.to_owned());
        let (is_suffix, host) = match text.trim().strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text.trim()),
        };
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => Host::Ipv6(address),
            Err(_) => Host::parse(host).map_err(|_| invalid())?,
        };
        let name = normal(&host.to_string());
        match (is_suffix, &host) {
            (_, Host::Domain(_)) if name.is_empty() || name.contains('*') => Err(invalid()),
            (true, Host::Domain(_)) => Ok(Self::Suffix(format!(".{name}"))),
            (true, _) => Err(invalid()),
            (false, _) => Ok(Self::Exact(name)),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
        }
    }
}

/// The prefix of NAT64 (RFC 6052), behind which an IPv4 address stands.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// The first segment of 6to4 (RFC 3056), after which an IPv4 address stands.
const SIX_TO_FOUR: u16 = 0x2002;

/// Metadata services that are no link-local addresses: of Azure, Alibaba Cloud and Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192)];

/// The same over IPv6, of Google Cloud.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x0254);

/// The prefix that Amazon EC2 has its metadata and credentials services under.
const EC2_SERVICES: [u16; 2] = [0xfd00, 0x0ec2];

/// What an address is that is not called for others; `None` for every other address.
#[must_use]
pub fn special_address(address: IpAddr) -> Option<&'static str> {
    const LOOPBACK: &str = "an address of this machine itself";
    const LINK_LOCAL: &str = "a link-local address";
    const METADATA: &str = "a metadata service";
    match address {
        IpAddr::V4(address) if address.is_loopback() || address.octets()[0] == 0 => Some(LOOPBACK),
        IpAddr::V4(address) if address.is_link_local() => Some(LINK_LOCAL),
        IpAddr::V4(address) => METADATA_V4.contains(&address).then_some(METADATA),
        IpAddr::V6(address) if address.is_loopback() || address.is_unspecified() => Some(LOOPBACK),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(LINK_LOCAL),
        IpAddr::V6(address) if address == METADATA_V6 || address.segments()[..2] == EC2_SERVICES => {
            Some(METADATA)
        }
        IpAddr::V6(address) => special_address(IpAddr::V4(embedded(address)?)),
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, or translated by NAT64 or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let segments = address.segments();
    address.to_ipv4().or_else(|| match segments {
        [SIX_TO_FOUR, high, low, ..] => Some(join(high, low)),
        [.., high, low] if segments[..6] == NAT64 => Some(join(high, low)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(hosts: Option<&[&str]>, url: &str) -> Result<(), HostRefusal> {
        let list = hosts.map(|hosts| HostList::new(hosts).unwrap());
        check(list.as_ref(), &Url::parse(url).unwrap())
    }

    #[test]
    fn without_a_list_every_host_is_allowed() {
        for url in ["https://api.mypurecloud.ie", "http://simulator.presence:8090", "http://10.0.0.1"] {
            assert_eq!(checked(None, url), Ok(()), "{url}");
            assert_eq!(checked(Some(&[]), url), Err(HostRefusal::NotListed), "{url} and an empty list");
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
            assert_eq!(checked(Some(&hosts), url), Ok(()), "{url}");
        }
        for url in [
            "https://mypurecloud.ie",
            "https://api.mypurecloud.ie.example.com",
            "https://purecloud.example",
            "https://evilpurecloud.example",
            "http://10.0.0.2",
            "http://[fd00::2]",
        ] {
            assert_eq!(checked(Some(&hosts), url), Err(HostRefusal::NotListed), "{url}");
        }
    }

    #[test]
    fn an_entry_that_is_no_host_is_refused() {
        for host in ["", "*", "*.", "a.*.b", "*.10.0.0.1", "https://x", "x/y", "x:443", "a b", "*x.y"] {
            let error = HostList::new(["ok.example", host]).unwrap_err();
            assert!(error.to_string().contains("is no host"), "{host}: {error}");
        }
    }

    /// Special addresses, in every spelling that a URL takes.
    const SPECIAL: [&str; 24] = [
        "127.0.0.1",
        "127.8.9.1",
        "0x7f.1",
        "2130706433",
        "0.0.0.0",
        "0",
        "169.254.169.254",
        "169.254.170.2",
        "0xa9fea9fe",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[febf::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[2002:7f00:1::]",
        "[fd00:ec2::254]",
        "[fd00:ec2::23]",
        "[fd20:ce::254]",
    ];

    #[test]
    fn special_addresses_are_refused_in_every_spelling() {
        for host in SPECIAL {
            let url = format!("http://{host}:8090");
            assert!(matches!(checked(None, &url), Err(HostRefusal::SpecialAddress(_))), "{host}");
            assert_eq!(checked(Some(&["*.example.com"]), &url), Err(HostRefusal::NotListed), "{host}");
        }
        for host in [
            "10.0.0.1",
            "192.168.1.1",
            "169.253.0.1",
            "128.0.0.1",
            "[fd00::1]",
            "[64:ff9b::10.0.0.1]",
            "[2002:a00:1::]",
        ] {
            assert_eq!(checked(None, &format!("http://{host}")), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_special_address_that_is_listed_is_allowed() {
        for listed in SPECIAL.iter().filter(|host| !host.contains("0x") && host.contains(['.', ':'])) {
            let url = format!("http://{listed}:8090");
            assert_eq!(checked(Some(&[listed]), &url), Ok(()), "{listed}");
            assert_eq!(checked(Some(&[listed.trim_matches(['[', ']'])]), &url), Ok(()), "{listed}");
        }
    }
}
