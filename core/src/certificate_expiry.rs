//! When the certificates in a route's Secrets expire, so that somebody hears of it before a broker refuses them.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate as X509;
use x509_cert::der::Decode;

/// Certificates under one key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret's name.
    pub secret: String,
    /// The key.
    pub key: String,
    /// When the first of them expires, in seconds since 1970.
    pub expires: i64,
}

impl Certificate {
    /// The certificates in `pem`; `None` where it has none that can be read, which whoever uses it will say.
    ///
    /// Of a chain or a bundle the one that expires first counts: a chain breaks with it, and one that a bundle no
    /// longer needs is better taken out than waited for.
    pub fn read(secret: &str, key: &str, pem: &[u8]) -> Option<Self> {
        let expires = CertificateDer::pem_slice_iter(pem)
            .filter_map(|der| X509::from_der(&der.ok()?).ok())
            .filter_map(|certificate| {
                let end = certificate.tbs_certificate().validity().not_after;
                i64::try_from(end.to_unix_duration().as_secs()).ok()
            })
            .min()?;
        Some(Self { secret: secret.to_owned(), key: key.to_owned(), expires })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two that were made for this test and expire when 2030 and 2040 begin; nobody has their keys any more.
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
        let expires = |pem: &str| Certificate::read("s", "k", pem.as_bytes()).map(|found| found.expires);
        assert_eq!(expires(YEAR_2040), Some(2_208_988_800));
        assert_eq!(expires(&format!("a comment\n{YEAR_2040}{YEAR_2030}")), Some(1_893_456_000));
        assert_eq!(expires("no certificate"), None);
        assert_eq!(expires("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
    }
}
