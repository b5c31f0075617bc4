//! What a node trusts when it talks TLS: the system's certificates and those of `--upstream-ca`.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tracing::warn;

use super::OriginError;

/// The client's side of TLS. `system` says whether the system's certificates are read.
pub(super) fn client_config(system: bool, ca: Option<&Path>) -> Result<ClientConfig, OriginError> {
    let mut roots = RootCertStore::empty();
    if system {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            warn!(%error, "a certificate of the system cannot be used");
        }
        roots.add_parsable_certificates(found.certs);
    }
    if let Some(path) = ca {
        let unusable = |source| OriginError::Certificates { path: path.to_owned(), source };
        let certificates = CertificateDer::pem_file_iter(path).map_err(unusable)?;
        for certificate in certificates {
            roots.add(certificate.map_err(unusable)?).map_err(OriginError::Tls)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(OriginError::Tls)?.with_root_certificates(roots).with_no_client_auth())
}
