//! Whether a sender asks for a receipt: `Prefer: return=representation` (RFC 7240).

use http::HeaderMap;
use http::header::HeaderName;
use presenceroute_core::receipt::PREFERENCE;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Whether the first `return` preference is for a representation. What else is preferred is not looked at.
pub(super) fn wants_receipt(headers: &HeaderMap) -> bool {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|preference| preference.split(';').next().unwrap_or_default().trim())
        .find(|preference| preference.get(..7).is_some_and(|name| name.eq_ignore_ascii_case("return=")))
        .is_some_and(|preference| preference.eq_ignore_ascii_case(PREFERENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(values: &[&str]) -> bool {
        let headers = values.iter().map(|value| (PREFER, value.parse().unwrap()));
        wants_receipt(&headers.collect())
    }

    #[test]
    fn a_receipt_is_for_those_who_ask() {
        for values in [
            &["return=representation"][..],
            &["Return=Representation; x=y"],
            &["respond-async, return=representation"],
            &["wait=10", "return=representation"],
        ] {
            assert!(wants(values), "{values:?}");
        }
        for values in [
            &[][..],
            &["return=minimal"],
            &["return"],
            &["returns=representation"],
            &["return=minimal, return=representation"],
        ] {
            assert!(!wants(values), "{values:?}");
        }
    }
}
