//! Whether a body was signed with one of the active secrets.
//!
//! The comparison is constant-time. Which secrets are active is decided in `secrets`.

use data_encoding::HEXLOWER;

use crate::source::secrets::ActiveSecret;

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

    /// The secret under which it is the HMAC-SHA256 of `body`, where one of these is.
    pub fn signer<'s>(&self, secrets: &'s [ActiveSecret], body: &[u8]) -> Option<&'s ActiveSecret> {
        let tag = self.0?;
        secrets.iter().find(|secret| secret.signed(body, &tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 4231, test case 2.
    const BODY: &[u8] = b"what do ya want for nothing?";
    const SIGNATURE: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    fn verify(secrets: &[&str], signature: &[u8], body: &[u8]) -> bool {
        Signature::read(signature).signer(&active(secrets), body).is_some()
    }

    fn active(secrets: &[&str]) -> Vec<ActiveSecret> {
        secrets.iter().map(|secret| ActiveSecret::new("x".into(), &(*secret).into()).unwrap()).collect()
    }

    #[test]
    fn any_active_secret_verifies() {
        assert!(verify(&["Jefe"], SIGNATURE.as_bytes(), BODY));
        assert!(verify(&["new", "Jefe"], SIGNATURE.as_bytes(), BODY));
        assert!(!verify(&["new"], SIGNATURE.as_bytes(), BODY));
        assert!(!verify(&[], SIGNATURE.as_bytes(), BODY));
    }

    #[test]
    fn another_body_does_not_verify() {
        assert!(!verify(&["Jefe"], SIGNATURE.as_bytes(), b"what do ya want for nothing!"));
    }

    #[test]
    fn only_64_lowercase_digits_are_a_signature() {
        let uppercase = SIGNATURE.to_uppercase();
        let prefixed = format!("sha256={SIGNATURE}");
        for signature in ["", &SIGNATURE[..62], &format!("{SIGNATURE}00"), &uppercase, &prefixed] {
            assert!(!verify(&["Jefe"], signature.as_bytes(), BODY), "{signature}");
        }
    }
}
