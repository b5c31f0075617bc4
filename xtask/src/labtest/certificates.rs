//! Keys and certificates that are made for one test and trusted by nobody else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};

/// Files that a server and those who trust it read.
#[derive(Debug)]
pub(super) struct Files {
    /// The certificate of the authority, PEM.
    pub(super) authority: PathBuf,
    /// The server's certificate, PEM.
    pub(super) certificate: PathBuf,
    /// The server's key, PEM.
    pub(super) key: PathBuf,
}

/// Makes an authority of our own and a certificate for a server of these names and addresses.
pub(super) fn for_server(directory: &Path, names: &[String]) -> Result<Files> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "authority of a lab");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "server of a lab");
    let certificate = server.signed_by(&key, &authority)?;
    let write = |name: &str, pem: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        fs::write(&path, pem).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    Ok(Files {
        authority: write("authority.pem", &authority.pem())?,
        certificate: write("server.pem", &certificate.pem())?,
        key: write("server.key", &key.serialize_pem())?,
    })
}

/// A key and a certificate that nobody else has signed, to sign tokens with.
pub(super) fn for_tokens() -> Result<(KeyPair, rcgen::Certificate)> {
    let key = KeyPair::generate()?;
    let mut own = CertificateParams::default();
    own.distinguished_name.push(DnType::CommonName, "token service of a lab");
    let certificate = own.self_signed(&key)?;
    Ok((key, certificate))
}
