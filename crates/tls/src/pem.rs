//! Certificates, keys and revocation lists from files.

use std::path::Path;

pub use rustls::pki_types::pem::Error as PemError;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has a password.
    #[error("the key is encrypted")]
    Encrypted,
    /// The file cannot be read, or holds no key.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// Everything of one kind in a file, at least one.
///
/// # Errors
/// The file cannot be read, is no PEM, or holds nothing of the kind ([`PemError::NoItemsFound`]).
pub fn read_all<T: PemObject>(path: &Path) -> Result<Vec<T>, PemError> {
    let items = T::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
    if items.is_empty() { Err(PemError::NoItemsFound) } else { Ok(items) }
}

/// The first key in a file.
///
/// # Errors
/// The key is encrypted, or there is none.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = std::fs::read(path).map_err(PemError::Io)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(Error::Encrypted);
    }
    Ok(PrivateKeyDer::from_pem_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;

    use super::*;

    fn key(content: &str) -> Result<PrivateKeyDer<'static>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, content).unwrap();
        read_key(&path)
    }

    #[test]
    fn encrypted_keys_are_told_from_missing_ones() {
        for text in ["-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "Proc-Type: 4,ENCRYPTED\n"] {
            assert!(matches!(key(text), Err(Error::Encrypted)), "{text}");
        }
        assert!(matches!(key(""), Err(Error::Pem(PemError::NoItemsFound))));
        let none = Path::new("/nonexistent/key");
        assert!(matches!(read_key(none), Err(Error::Pem(PemError::Io(_)))));
    }

    #[test]
    fn file_without_a_certificate_is_an_error() {
        let read = |path: &Path| read_all::<CertificateDer<'static>>(path);
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(read(empty.path()), Err(PemError::NoItemsFound)));
        assert!(matches!(read(Path::new("/nonexistent/root.crt")), Err(PemError::Io(_))));
    }
}
