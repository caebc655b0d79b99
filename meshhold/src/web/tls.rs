//! The certificate of the Web UI: the operator's, or one that this node signs itself.
//!
//! Owns the file `web-tls.pem` in the data folder. Must not know connections.

use crate::config::private;
use crate::control::ControlConfig;
use anyhow::{Context, bail};
use aws_lc_rs::digest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// What is needed to serve TLS.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    /// SHA-256 of a self-signed certificate, in hex pairs.
    pub(super) fingerprint: Option<String>,
}

/// Loads the operator's certificate, or the node's own, which is made where there is none yet.
///
/// # Errors
/// A file can't be read or holds something else.
pub(super) fn load(config: &ControlConfig) -> anyhow::Result<Tls> {
    match (&config.api.tls_cert, &config.api.tls_key) {
        (Some(cert), Some(key)) => {
            let read =
                |path: &Path| std::fs::read(path).with_context(|| format!("can't read {}", path.display()));
            let (cert, key) = (read(cert)?, Zeroizing::new(read(key)?));
            Ok(Tls { acceptor: acceptor(&cert, &key)?.0, fingerprint: None })
        }
        (None, None) => {
            let pem = own(config)?;
            let (acceptor, fingerprint) = acceptor(&pem, &pem)?;
            Ok(Tls { acceptor, fingerprint: Some(fingerprint) })
        }
        _ => bail!(
            "api.tls_cert and api.tls_key belong together; set both, or none for a self-signed certificate"
        ),
    }
}

fn own(config: &ControlConfig) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let path = config.data_dir.join("web-tls.pem");
    if let Some(pem) = private::read(&path)? {
        return Ok(pem);
    }
    let address = config.api.listen_addr.map(|address| address.ip()).filter(|ip| !ip.is_unspecified());
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter();
    let names = names.chain(address.map(|ip| ip.to_string())).chain(config.api.hosts.iter().cloned());
    let made = rcgen::generate_simple_self_signed(names.collect::<Vec<_>>())
        .context("can't make a certificate for the names in api.hosts")?;
    let key = Zeroizing::new(made.signing_key.serialize_pem());
    let pem = Zeroizing::new([made.cert.pem().as_bytes(), key.as_bytes()].concat());
    private::folder(&config.data_dir)?;
    private::write(&path, &pem)?;
    Ok(pem)
}

/// From PEM; and the first certificate's fingerprint.
fn acceptor(cert: &[u8], key: &[u8]) -> anyhow::Result<(TlsAcceptor, String)> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.context("api.tls_cert holds no certificate in PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key).ok().context("api.tls_key holds no private key in PEM")?;
    let fingerprint = chain.first().map(fingerprint).unwrap_or_default();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate and the private key of the Web UI don't fit")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
