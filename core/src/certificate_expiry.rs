//! When certificates expire: that of the relay's listener, and those in a route's Secrets. How long before to warn is the
//! callers' decision.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// When a certificate expires, in seconds since 1970. `None` where it cannot be read.
pub fn expiry(certificate: &CertificateDer<'_>) -> Option<i64> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    i64::try_from(end.to_unix_duration().as_secs()).ok()
}

/// When the first of the certificates in `pem` expires. `None` where there is none that can be read.
///
/// A chain breaks with the first of its certificates. In a bundle, one that is no longer needed is better removed than
/// left to expire.
pub fn first_expiry(pem: &[u8]) -> Option<i64> {
    CertificateDer::pem_slice_iter(pem).filter_map(|certificate| expiry(&certificate.ok()?)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made for this test; they expire when 2030 and 2040 begin. Their keys are not kept.
    const YEAR_2030: &str = "\
-----BEGIN CERTIFICATE-----
MIHKMH6gAwIBAgICB+4wBQYDK2VwMA8xDTALBgNVBAMMBDIwMzAwHhcNMjYwMTAx
MDAwMDAwWhcNMzAwMTAxMDAwMDAwWjAPMQ0wCwYDVQQDDAQyMDMwMCowBQYDK2Vw
AyEAn6yy+1y2sboCVaVVLeFWA1ruVGzbgZnWFQZJ3pFK1P0wBQYDK2VwA0EAJF8P
s3I4aLWc7OCngakexjVjer1aJM9ymNFBQJOfbhBD+cNWwwZuWq24ded4LIuQlmc6
xiwOqqH3z4i/uhPEDg==
-----END CERTIFICATE-----
";
    const YEAR_2040: &str = "\
-----BEGIN CERTIFICATE-----
MIHKMH6gAwIBAgICB/gwBQYDK2VwMA8xDTALBgNVBAMMBDIwNDAwHhcNMjYwMTAx
MDAwMDAwWhcNNDAwMTAxMDAwMDAwWjAPMQ0wCwYDVQQDDAQyMDQwMCowBQYDK2Vw
AyEA3S3bnrbQqyIcg3sbULQBb9DCFq2+xSS1WFVPMU9INyIwBQYDK2VwA0EAfCbT
bQlawjjs0k3tXMXAvyyEiT6gRcIe6SYmRBzhQbEMpMj31dERUY4tDLltvmUOcVPM
fzX/VqmSmUgqvHNvAw==
-----END CERTIFICATE-----
";

    #[test]
    fn of_several_certificates_the_first_to_expire_counts() {
        let expires = |pem: &str| first_expiry(pem.as_bytes());
        assert_eq!(expires(YEAR_2040), Some(2_208_988_800));
        assert_eq!(expires(&format!("a comment\n{YEAR_2040}{YEAR_2030}")), Some(1_893_456_000));
        assert_eq!(expires("no certificate"), None);
        assert_eq!(expires("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
    }
}
