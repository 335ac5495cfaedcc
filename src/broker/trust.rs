//! Whose word the broker's certificate is taken on, beside those that the machine trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Certificate;

/// Certificates that vouch for the broker; clones share them.
#[derive(Clone, Default)]
pub struct Trust {
    pem: Option<Arc<str>>,
    parsed: Arc<[Certificate]>,
}

/// Why they cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("broker.ca_file: cannot use the certificates in {}: {reason}; name a PEM file", path.display())]
pub struct TrustError {
    path: PathBuf,
    reason: String,
}

impl Trust {
    /// Reads a PEM file; without one the machine's certificates alone are trusted.
    ///
    /// # Errors
    /// Where it cannot be read, or holds no certificate.
    pub fn read(path: Option<&Path>) -> Result<Self, TrustError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let wrong = |reason: String| TrustError { path: path.to_owned(), reason };
        let pem = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let parsed = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        if parsed.is_empty() {
            return Err(wrong("there is none".to_owned()));
        }
        Ok(Self { pem: Some(pem.into()), parsed: parsed.into() })
    }

    /// For AMQP.
    pub(super) fn pem(&self) -> Option<String> {
        self.pem.as_deref().map(str::to_owned)
    }

    /// For the management API.
    pub(super) fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.parsed.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        assert!(Trust::read(Some(&path)).is_err());
        std::fs::write(&path, "nothing").unwrap();
        assert!(Trust::read(Some(&path)).err().unwrap().to_string().contains("there is none"));
        let key = rcgen::generate_simple_self_signed(["rabbit".to_owned()]).unwrap();
        std::fs::write(&path, key.cert.pem()).unwrap();
        let trust = Trust::read(Some(&path)).unwrap();
        assert_eq!((trust.certificates().count(), trust.pem().is_some()), (1, true));
        assert!(Trust::read(None).unwrap().pem().is_none());
    }
}
