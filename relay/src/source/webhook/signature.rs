//! Whether a body was signed with one of the active secrets.
//!
//! The comparison is constant-time. Which secrets are active is decided in `secrets`.

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// One secret, ready to verify with: the key schedule is computed once, not for each event.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    /// Takes the secret's bytes as the key, as they are.
    pub fn new(secret: &SecretString) -> Option<Self> {
        Hmac::new_from_slice(secret.expose_secret().as_bytes()).ok().map(Self)
    }

    fn signed(&self, body: &[u8], tag: &[u8; 32]) -> bool {
        self.0.clone().chain_update(body).verify_slice(tag).is_ok()
    }
}

/// A signature as a sender wrote it, or nothing where no key can have made it.
#[derive(Clone, Copy)]
pub struct Signature(Option<[u8; 32]>);

impl Signature {
    /// Reads 64 lowercase hexadecimal digits. Uppercase is refused: there is one way to write a signature.
    pub fn read(text: &[u8]) -> Self {
        let mut tag = [0; 32];
        let is_read = text.len() == 2 * tag.len() && HEXLOWER.decode_mut(text, &mut tag).is_ok();
        Self(is_read.then_some(tag))
    }

    /// Whether it is the HMAC-SHA256 of `body` under any of `keys`.
    pub fn verifies(&self, keys: &[SigningKey], body: &[u8]) -> bool {
        self.0.is_some_and(|tag| keys.iter().any(|key| key.signed(body, &tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4231, test case 2.
    const BODY: &[u8] = b"what do ya want for nothing?";
    const SIGNATURE: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    fn key(secret: &str) -> SigningKey {
        SigningKey::new(&secret.into()).unwrap()
    }

    fn verify(keys: &[SigningKey], signature: &[u8], body: &[u8]) -> bool {
        Signature::read(signature).verifies(keys, body)
    }

    #[test]
    fn any_active_secret_verifies() {
        assert!(verify(&[key("Jefe")], SIGNATURE.as_bytes(), BODY));
        assert!(verify(&[key("new"), key("Jefe")], SIGNATURE.as_bytes(), BODY));
        assert!(!verify(&[key("new")], SIGNATURE.as_bytes(), BODY));
        assert!(!verify(&[], SIGNATURE.as_bytes(), BODY));
    }

    #[test]
    fn another_body_does_not_verify() {
        assert!(!verify(&[key("Jefe")], SIGNATURE.as_bytes(), b"what do ya want for nothing!"));
    }

    #[test]
    fn only_64_lowercase_digits_are_a_signature() {
        let uppercase = SIGNATURE.to_uppercase();
        let prefixed = format!("sha256={SIGNATURE}");
        for signature in ["", &SIGNATURE[..62], &format!("{SIGNATURE}00"), &uppercase, &prefixed] {
            assert!(!verify(&[key("Jefe")], signature.as_bytes(), BODY), "{signature}");
        }
    }
}
