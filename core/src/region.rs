//! The regions of Genesys Cloud, each called by its domain.

/// The domains of the regions, with the AWS region that each runs in.
///
/// Source: the table that Genesys generates into its own clients, `PureCloudRegionHosts` in
/// <https://github.com/MyPureCloud/platform-client-sdk-javascript>, which holds every row but the last; the page for
/// people is <https://developer.genesys.cloud/platform/api/>. The last one, the European sovereign cloud, is in newer
/// clients only.
pub const KNOWN: [(&str, &str); 18] = [
    ("mypurecloud.com", "us-east-1"),
    ("use2.us-gov-pure.cloud", "us-east-2"),
    ("usw2.pure.cloud", "us-west-2"),
    ("cac1.pure.cloud", "ca-central-1"),
    ("mxc1.pure.cloud", "mx-central-1"),
    ("sae1.pure.cloud", "sa-east-1"),
    ("mypurecloud.ie", "eu-west-1"),
    ("euw2.pure.cloud", "eu-west-2"),
    ("mypurecloud.de", "eu-central-1"),
    ("euc2.pure.cloud", "eu-central-2"),
    ("mec1.pure.cloud", "me-central-1"),
    ("aps1.pure.cloud", "ap-south-1"),
    ("apse1.pure.cloud", "ap-southeast-1"),
    ("mypurecloud.com.au", "ap-southeast-2"),
    ("mypurecloud.jp", "ap-northeast-1"),
    ("apne2.pure.cloud", "ap-northeast-2"),
    ("apne3.pure.cloud", "ap-northeast-3"),
    ("edee1.eusc-pure.cloud", "eusc-de-east-1"),
];

/// The base URL of a region's API, for a known region and for one that is newer than this table alike.
#[must_use]
pub fn api_url(region: &str) -> String {
    format!("https://api.{region}")
}

/// The base URL of a region's login service, which gives tokens.
///
/// Source: `GetAccessToken` of Genesys's own clients, such as
/// <https://github.com/MyPureCloud/platform-client-sdk-go>.
#[must_use]
pub fn login_url(region: &str) -> String {
    format!("https://login.{region}")
}

/// Whether the region is in the table. One that is not may be new; it may also be a slip of the pen, which is worth a
/// word to the user.
#[must_use]
pub fn is_known(region: &str) -> bool {
    KNOWN.iter().any(|(domain, _)| *domain == region)
}

/// Whether a host is one of Genesys Cloud's own: the API or the login of a region in the table.
#[must_use]
pub fn is_host_of_region(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    ["api.", "login."].iter().any(|service| host.strip_prefix(service).is_some_and(is_known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regions_api_is_at_api_dot_its_domain() {
        assert_eq!(api_url("mypurecloud.ie"), "https://api.mypurecloud.ie");
        assert_eq!(api_url("new1.pure.cloud"), "https://api.new1.pure.cloud");
    }

    #[test]
    fn the_table_tells_known_from_unknown() {
        assert!(is_known("mypurecloud.com.au"));
        assert!(!is_known("mypurecloud.con"));
    }

    #[test]
    fn the_page_of_events_lists_every_region() {
        let page = include_str!("../../docs/events.md");
        let (_, section) = page.split_once("\n## Regions\n").unwrap();
        let listed: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(listed, KNOWN.map(|(domain, aws)| format!("| `{domain}` | {aws} |")));
    }

    #[test]
    fn hosts_of_regions_are_told_from_others() {
        for host in ["api.mypurecloud.ie", "API.mypurecloud.ie.", "login.euw2.pure.cloud"] {
            assert!(is_host_of_region(host), "{host}");
        }
        for host in [
            "mypurecloud.ie",
            "apps.mypurecloud.ie",
            "api.mypurecloud.ei",
            "api.mypurecloud.ie.example.com",
            "api.api.mypurecloud.ie",
            "",
        ] {
            assert!(!is_host_of_region(host), "{host}");
        }
    }

    #[test]
    fn no_region_is_listed_twice() {
        for (position, (domain, aws)) in KNOWN.iter().enumerate() {
            assert!(!KNOWN[..position].iter().any(|(other, at)| other == domain || at == aws), "{domain}");
        }
    }
}
