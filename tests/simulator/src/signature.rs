//! The signature of a delivery, and fingerprints that distinguish secrets without showing them.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The lowercase-hex HMAC-SHA256 of `body` under `secret`, as the signature header carries it.
#[must_use]
pub fn sign(secret: &SecretString, body: &[u8]) -> String {
    let key = secret.expose_secret().as_bytes();
    // HMAC takes a key of any length, so this cannot fail.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| hex::encode(mac.chain_update(body).finalize().into_bytes()))
        .unwrap_or_default()
}

/// The first 8 hex digits of the secret's SHA-256: enough to see that it changed, useless for signing.
#[must_use]
pub fn fingerprint(secret: &SecretString) -> String {
    let mut digits = hex::encode(Sha256::digest(secret.expose_secret().as_bytes()));
    digits.truncate(8);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_lowercase_hex_of_hmac_sha256() {
        // RFC 4231, test case 2.
        let signature = sign(&"Jefe".into(), b"what do ya want for nothing?");
        assert_eq!(signature, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_fingerprint_is_the_start_of_the_secrets_sha256() {
        assert_eq!(fingerprint(&"abc".into()), "ba7816bf");
    }
}
