//! Signatures as Standard Webhooks 1.0 has them: HMAC-SHA256 over `id.timestamp.body`. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const PREFIX: &str = "whsec_";

/// Bytes a secret may have.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// The bytes of a secret; `None` where the text is none.
#[must_use]
pub fn key(secret: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
    LENGTHS.contains(&bytes.len()).then_some(bytes)
}

/// A secret of these bytes as people hand it on.
#[must_use]
pub fn secret(bytes: &[u8]) -> String {
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

/// The value of `webhook-signature`: one signature per secret, those that are none left out. `timestamp` is in seconds.
#[must_use]
pub fn signatures<'s>(secrets: impl IntoIterator<Item = &'s str>, id: &str, timestamp: i64, body: &str) -> String {
    let sign = |secret: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key(secret)?).ok()?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body.as_bytes());
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    };
    let signatures: Vec<String> = secrets.into_iter().filter_map(sign).collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_vector_of_the_reference_libraries() {
        let signed = signatures([SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_make_two_signatures() {
        let other = secret(&[7; 32]);
        let both = signatures([SECRET, &other], "a", 1, "b");
        let (one, two) = both.split_once(' ').unwrap();
        assert_eq!(
            (one, two),
            (signatures([SECRET], "a", 1, "b").as_str(), signatures([other.as_str()], "a", 1, "b").as_str())
        );
        assert_ne!(one, two);
    }

    #[test]
    fn what_is_a_secret() {
        assert_eq!(key(&secret(&[1; 32])), Some(vec![1; 32]));
        for text in [
            "",
            "whsec_",
            "whsec_AAAA",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_%%%%",
            &secret(&[1; 65]),
            &secret(&[1; 23]),
        ] {
            assert_eq!(key(text), None, "{text}");
        }
    }
}
