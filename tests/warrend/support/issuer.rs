//! An OpenID Connect issuer of a test's own: discovery, keys, and tokens of every kind.

#![allow(dead_code)]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};

/// What tokens for the daemon have in `aud`.
pub const AUDIENCE: &str = "warrend";

/// A key that signs.
pub enum Key {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Key {
    pub fn ed() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).expect("a key"))
    }

    pub fn ec() -> Self {
        let (way, chance) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let made = EcdsaKeyPair::generate_pkcs8(way, &chance).expect("a key");
        Self::Ec(EcdsaKeyPair::from_pkcs8(way, made.as_ref(), &chance).expect("a key"))
    }

    /// The one of the fixtures: making one takes long.
    pub fn rsa() -> Self {
        let pem = include_str!("../../fixtures/issuer/rsa.pem");
        let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(text).expect("base64");
        Self::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).expect("a key")))
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
                signature
            }
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(key.public_key().as_ref())})
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Self::Rsa(key) => {
                let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
                    "n": encoded(&n), "e": encoded(&e)})
            }
        }
    }
}

pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Its server runs as long as the test.
pub struct Issuer {
    pub url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<usize>>,
}

#[derive(Clone)]
struct Shown {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<usize>>,
}

impl Issuer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let (keys, asked) = (Arc::default(), Arc::default());
        let shown = Shown { url: url.clone(), keys: Arc::clone(&keys), asked: Arc::clone(&asked) };
        let router = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(async |State(shown): State<Shown>| {
                    *shown.asked.lock().expect("a count") += 1;
                    axum::Json(json!({"issuer": shown.url, "jwks_uri": format!("{}/keys", shown.url)}))
                }),
            )
            .route(
                "/keys",
                get(async |State(shown): State<Shown>| {
                    let mut keys = shown.keys.lock().expect("keys").clone();
                    // One that nobody here can use is left out, and the others are taken.
                    keys.push(json!({"kty": "EC", "crv": "P-521", "kid": "odd"}));
                    axum::Json(json!({"keys": keys}))
                }),
            )
            .with_state(shown);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, keys, asked }
    }

    /// Signs with these from now on, and with no others.
    pub fn signs_with(&self, keys: &[(&str, &Key)]) {
        *self.keys.lock().expect("keys") = keys.iter().map(|(kid, key)| key.jwk(kid)).collect();
    }

    /// How often somebody asked where its keys are.
    pub fn asked(&self) -> usize {
        *self.asked.lock().expect("a count")
    }

    /// Claims of somebody with these roles, good for an hour.
    pub fn claims(&self, name: &str, roles: &[&str]) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({"iss": self.url, "aud": AUDIENCE, "sub": name, "roles": roles, "iat": now, "exp": now + 3600})
    }
}

/// A token of these claims, signed.
pub fn token(key: &Key, kid: &str, claims: &Value) -> String {
    let header = json!({"typ": "JWT", "alg": key.algorithm(), "kid": kid});
    let message = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()));
    format!("{message}.{}", encoded(&key.sign(message.as_bytes())))
}
