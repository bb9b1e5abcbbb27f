//! The URLs that a manifest and the API name: which of them can be used, and when two of them are the same.
//!
//! URLs are parsed by the URL standard, so that the default port and the case of scheme and host do not matter. Which
//! field a URL is from, and what is wrong with it, is left to the caller.

use ::url::Url;

/// An http or https URL of one host, without user, query and fragment; `None` for any other text. A `*` in the host would
/// stand for many hosts in an Ingress.
#[must_use]
pub fn parse_http_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.contains('*'))
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    })
}

/// Whether two URLs lead to the same. Texts that are no URLs are the same when they are equal.
#[must_use]
pub fn is_same_url(one: &str, other: &str) -> bool {
    one == other || (may_be_same(one, other) && normalized(one) == normalized(other))
}

/// As [`is_same_url`], but a slash at the end does not matter, as in the base URL of an API.
#[must_use]
pub fn is_same_base_url(one: &str, other: &str) -> bool {
    is_same_url(one.trim_end_matches('/'), other.trim_end_matches('/'))
}

/// The one way in which a URL is written, without a slash at its end. A text that is no URL stays as it is.
#[must_use]
pub fn normalized_base_url(url: &str) -> String {
    normalized(url).trim_end_matches('/').to_owned()
}

fn normalized(url: &str) -> String {
    Url::parse(url).map_or_else(|_| url.to_owned(), String::from)
}

/// Rules out most pairs without parsing, because thousands of routes are compared each with each: a plain path is never
/// written in another way.
fn may_be_same(one: &str, other: &str) -> bool {
    match (plain_path(one), plain_path(other)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

/// The path of a URL in which nothing is encoded, relative or to be left out.
fn plain_path(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_plain = |text: &str, marks: &[u8]| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))
    };
    let path_is_plain = is_plain(path, b"/-_");
    // The root is written with a slash and without.
    let authority_is_plain = !authority.is_empty() && is_plain(authority, b".-:[]");
    (path_is_plain && authority_is_plain).then_some(if path.is_empty() { "/" } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_without_user_query_and_fragment_are_taken() {
        for text in
            ["", "api.example.com", "ftp://x", "http://user:word@x", "http://x?y", "http://x#y", "http://*.x"]
        {
            assert_eq!(parse_http_url(text), None, "{text}");
        }
        assert!(parse_http_url("http://gateway/genesys").is_some());
    }

    #[test]
    fn scheme_host_and_default_port_have_one_meaning() {
        for same in [
            "HTTPS://Presence.example.com/Events",
            "https://presence.example.com:443/Events",
            "https://presence.example.com/x/../Events",
        ] {
            assert!(is_same_url(same, "https://presence.example.com/Events"), "{same}");
        }
        assert!(is_same_url("https://presence.example.com", "https://presence.example.com/"));
        assert!(is_same_url("http://[2001:DB8::1]:80/a", "http://[2001:db8:0::1]/a"));
        assert!(is_same_url("https://bücher.example/a", "https://xn--bcher-kva.example/a"));
    }

    #[test]
    fn path_port_and_scheme_tell_urls_apart() {
        for other in [
            "https://presence.example.com/events",
            "https://presence.example.com/Events/",
            "https://presence.example.com:80/Events",
            "http://presence.example.com/Events",
            "https://presence.example.com",
        ] {
            assert!(!is_same_url(other, "https://presence.example.com/Events"), "{other}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_a_base_url_does_not_matter() {
        assert!(is_same_base_url("https://API.example.com/base/", "https://api.example.com:443/base"));
        assert!(!is_same_base_url("https://api.example.com/base", "https://api.example.com/Base"));
        assert_eq!(normalized_base_url("HTTPS://API.example.com:443/base/"), "https://api.example.com/base");
        assert_eq!(normalized_base_url("https://api.example.com"), "https://api.example.com");
    }

    #[test]
    fn a_text_that_is_no_url_is_only_itself() {
        assert!(is_same_url("no url", "no url") && !is_same_url("no url", "No url"));
        assert_eq!(normalized_base_url("no url"), "no url");
    }

    #[test]
    fn the_shortcut_agrees_with_the_parser() {
        let parts = ["http", "HTTPS", "https"].iter().flat_map(|scheme| {
            ["://a", "://A:443", "://a:80", "://a\\b", ":///a"].map(|host| format!("{scheme}{host}"))
        });
        let urls: Vec<_> = parts
            .flat_map(|start| {
                ["", "/", "/x", "/x/", "/./x", "/%78", "/y"].map(|path| format!("{start}{path}"))
            })
            .collect();
        for one in &urls {
            for other in &urls {
                assert_eq!(is_same_url(one, other), normalized(one) == normalized(other), "{one} {other}");
            }
        }
    }
}
