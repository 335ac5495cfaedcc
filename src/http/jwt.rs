//! Signatures of tokens that others issue: RS256, ES256 and EdDSA, verified with ring. Every other algorithm is refused,
//! `none` and those with a shared secret above all.

use std::sync::Once;

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as BadSignature, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey, Validation};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::Value;

/// Seconds that an issuer's clock may be ahead or behind.
const SKEW: u64 = 60;

/// The longest token that is looked at, in bytes.
pub(super) const LONGEST: usize = 16 * 1024;

/// A key that an issuer signs with.
#[derive(Clone)]
pub(super) struct Key {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    public: DecodingKey,
}

/// The keys of a set that can be used here; the others are left out.
pub(super) fn keys(set: &Value) -> Vec<Key> {
    set["keys"].as_array().into_iter().flatten().filter_map(key).collect()
}

fn key(jwk: &Value) -> Option<Key> {
    let text = |name: &str| jwk[name].as_str();
    if text("use").is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithm, word, key) = match (text("kty")?, text("crv")) {
        ("RSA", _) => (Algorithm::RS256, "RS256", DecodingKey::from_rsa_components(text("n")?, text("e")?)),
        ("EC", Some("P-256")) => (Algorithm::ES256, "ES256", DecodingKey::from_ec_components(text("x")?, text("y")?)),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA", DecodingKey::from_ed_components(text("x")?)),
        _ => return None,
    };
    // A key for another algorithm of its family is for that one alone.
    if text("alg").is_some_and(|alg| alg != word) {
        return None;
    }
    Some(Key { kid: text("kid").map(str::to_owned), algorithm, public: key.ok()? })
}

/// The key id that a token names, and whether it can be one of ours at all.
pub(super) fn header(token: &str) -> Option<(Algorithm, Option<String>)> {
    if token.len() > LONGEST {
        return None;
    }
    let header = jsonwebtoken::decode_header(token).ok()?;
    let known = matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA);
    known.then_some((header.alg, header.kid))
}

/// The claims of a token that this key signed, for this audience, by this issuer, and that is good now.
pub(super) fn claims(token: &str, key: &Key, issuer: &str, audience: &str) -> Option<Value> {
    install();
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = SKEW;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    jsonwebtoken::decode::<Value>(token, &key.public, &validation).ok().map(|data| data.claims)
}

/// Makes ring what verifies, once in a process.
fn install() {
    static ONCE: Once = Once::new();
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: refuse_to_sign,
        verifier_factory: verifier,
        key_utils: KeyUtils::new_unimplemented(),
    };
    // It fails where one is installed, and nobody else does that.
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the crate's signature")]
fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the crate's signature")]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    let key = match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Public::Rsa(RsaPublicKeyComponents { n: n.clone(), e: e.clone() })
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
            Public::Other(UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point.clone()))
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
            Public::Other(UnparsedPublicKey::new(&signature::ED25519, point.clone()))
        }
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(Ring { algorithm: *algorithm, key }))
}

enum Public {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Other(UnparsedPublicKey<Vec<u8>>),
}

struct Ring {
    algorithm: Algorithm,
    key: Public,
}

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), BadSignature> {
        let verified = match &self.key {
            Public::Rsa(key) => key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature),
            Public::Other(key) => key.verify(message, signature),
        };
        verified.map_err(|_| BadSignature::new())
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
