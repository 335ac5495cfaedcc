//! TLS of the listener: rustls over ring, TLS 1.2 and 1.3. Certificate and key are read again once their files change, so
//! that renewing them takes no restart; files that cannot be used leave what is in use in use.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// Certificate and key in use; clones share them.
#[derive(Clone)]
pub struct Tls {
    files: Arc<Files>,
    now: Arc<RwLock<TlsAcceptor>>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{setting}: cannot read {}: {reason}; name a PEM file", path.display())]
    Unreadable { setting: &'static str, path: PathBuf, reason: String },
    #[error("http.tls_cert and http.tls_key do not do together: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// Reads both PEM files: the certificate with those that vouch for it behind it, and its private key.
    ///
    /// # Errors
    /// Where one cannot be read, or they do not belong together.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = Files { cert: cert.to_owned(), key: key.to_owned() };
        let now = Arc::new(RwLock::new(files.read()?));
        Ok(Self { files: Arc::new(files), now })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again whenever they changed, until `stop`.
    pub async fn follow(self, stop: CancellationToken) {
        let mut seen = self.files.changed();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let changed = self.files.changed();
            if changed == seen {
                continue;
            }
            seen = changed;
            match self.files.read() {
                Ok(acceptor) => {
                    *self.now.write().unwrap_or_else(PoisonError::into_inner) = acceptor;
                    tracing::info!("certificate and key of the HTTP API were read again");
                }
                Err(error) => tracing::error!(%error, "the certificate in use stays in use"),
            }
        }
    }
}

impl Files {
    fn read(&self) -> Result<TlsAcceptor, TlsError> {
        let unreadable =
            |setting, path: &Path, reason: String| TlsError::Unreadable { setting, path: path.to_owned(), reason };
        let certs = CertificateDer::pem_file_iter(&self.cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable("http.tls_cert", &self.cert, error.to_string()))?;
        if certs.is_empty() {
            return Err(unreadable("http.tls_cert", &self.cert, "it holds no certificate".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| unreadable("http.tls_key", &self.key, error.to_string()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certs, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// When each was written last; what cannot be looked at is as if it were not there.
    fn changed(&self) -> [Option<SystemTime>; 2] {
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok())
    }
}
