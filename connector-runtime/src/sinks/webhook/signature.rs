//! Signatures in the form of Standard Webhooks: `v1,base64(HMAC-SHA256(key, "{id}.{timestamp}.{body}"))`.

use api_types::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Before a key that is written in base64, as the tools of Standard Webhooks print it.
const KEY_PREFIX: &str = "whsec_";

/// The current key, then the previous one.
#[derive(Clone)]
pub(super) struct Signer {
    keys: Vec<Hmac<Sha256>>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SignerError {
    #[error("a key that begins with whsec_ must go on in base64")]
    NotBase64,
}

impl Signer {
    pub(super) fn new<'k>(keys: impl Iterator<Item = &'k Secret>) -> Result<Self, SignerError> {
        let keys = keys.map(|key| {
            let key = match key.reveal().strip_prefix(KEY_PREFIX) {
                Some(encoded) => STANDARD.decode(encoded).map_err(|_| SignerError::NotBase64)?,
                None => key.reveal().as_bytes().to_vec(),
            };
            // HMAC takes keys of any length.
            Hmac::new_from_slice(&key).map_err(|_| SignerError::NotBase64)
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// `None` without a key. Several signatures stand apart by spaces.
    pub(super) fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> Option<String> {
        let signatures = self.keys.iter().map(|key| {
            let mut mac = key.clone();
            mac.update(format!("{id}.{timestamp_s}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        let signatures: Vec<String> = signatures.collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_that_of_the_standard() {
        // The example of the Standard Webhooks specification's own test suites.
        let key = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signer = Signer::new([key].iter()).expect("is a key");
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn both_keys_sign_while_they_change() {
        let keys = [Secret::new("the new key of today"), Secret::new("the old key of before")];
        let both = Signer::new(keys.iter()).expect("are keys").sign("id", 1, b"x").expect("signs");
        let each = keys.map(|key| Signer::new([key].iter()).expect("is a key").sign("id", 1, b"x").expect("signs"));
        assert_eq!(both, each.join(" "));
        assert_eq!(Signer::new([].iter()).expect("no key").sign("id", 1, b"x"), None);
    }
}
