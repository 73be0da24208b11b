//! Mutual TLS 1.3 between nodes.
//!
//! Invariant: both ends present a certificate of the cluster's authority, and
//! the name in it is the name of a configured peer. TLS 1.2 is not offered;
//! the crypto provider is passed explicitly, so no process-wide default counts.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use libmig::api::NodeName;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Tls;
use crate::peer::PeerError;
use crate::peer::seal::{self, Seals};

/// The protocol name of ALPN: whatever else speaks TLS here is refused early.
const ALPN: &[u8] = b"mig/1";

/// Both directions' configuration.
#[derive(Debug, Clone)]
pub(crate) struct TlsConfigs {
    /// For connections that we make.
    pub(crate) dial: Arc<ClientConfig>,
    /// For connections that we accept.
    pub(crate) accept: Arc<ServerConfig>,
    /// For checkpoints, by the same certificates.
    pub(crate) seals: Arc<Seals>,
}

impl TlsConfigs {
    /// Reads the files and checks that the certificate names `node`.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn load(tls: &Tls, node: &NodeName) -> anyhow::Result<TlsConfigs> {
        let mut roots = RootCertStore::empty();
        let authorities = certs(&tls.ca)?;
        let anchors = seal::anchors(&authorities)?;
        for cert in authorities {
            roots
                .add(cert)
                .with_context(|| format!("{}: not an authority", tls.ca.display()))?;
        }
        let roots = Arc::new(roots);
        let chain = certs(&tls.cert)?;
        let named =
            node_name(&chain[0]).with_context(|| format!("certificate {}", tls.cert.display()))?;
        ensure!(
            &named == node,
            "certificate {} is for node `{named}`, but this node is `{node}`",
            tls.cert.display()
        );
        let key = PrivateKeyDer::from_pem_file(&tls.key)
            .with_context(|| format!("cannot read the private key {}", tls.key.display()))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let signer = provider
            .key_provider
            .load_private_key(key.clone_key())
            .with_context(|| format!("cannot sign with {}", tls.key.display()))?;
        let seals = Seals::new(signer, chain.clone(), anchors)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .context("the authority cannot verify peers")?;
        let mut accept = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .context("certificate and key do not fit")?;
        let mut dial = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .context("certificate and key do not fit")?;
        accept.alpn_protocols = vec![ALPN.to_vec()];
        dial.alpn_protocols = vec![ALPN.to_vec()];
        // Nobody resumes: a session ticket would outlive the check of the name.
        accept.send_tls13_tickets = 0;
        Ok(TlsConfigs {
            dial: Arc::new(dial),
            accept: Arc::new(accept),
            seals: Arc::new(seals),
        })
    }
}

fn certs(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("cannot read certificates {}", path.display()))?;
    ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}

/// The name under which a peer is dialled.
pub(crate) fn server_name(node: &NodeName) -> ServerName<'static> {
    ServerName::try_from(node.as_str().to_owned()).expect("a node name is a DNS label")
}

/// Checks the certificate of a finished handshake: its name must be one of
/// `expected`.
///
/// # Errors
/// When the name is missing, malformed or not expected.
pub(crate) fn authenticate<'a>(
    certs: Option<&[CertificateDer<'_>]>,
    mut expected: impl Iterator<Item = &'a NodeName>,
) -> Result<NodeName, PeerError> {
    let cert = certs
        .and_then(<[_]>::first)
        .ok_or_else(|| PeerError::Certificate("none was presented".into()))?;
    let name = node_name(cert)?;
    if expected.any(|known| known == &name) {
        Ok(name)
    } else {
        Err(PeerError::Stranger(name))
    }
}

/// The one DNS name in the subject alternative names.
pub(super) fn node_name(cert: &CertificateDer<'_>) -> Result<NodeName, PeerError> {
    let bad = |why: String| PeerError::Certificate(why);
    let (_, parsed) =
        X509Certificate::from_der(cert).map_err(|error| bad(format!("malformed: {error}")))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| bad(format!("malformed names: {error}")))?
        .ok_or_else(|| bad("it has no subject alternative name".into()))?;
    let mut dns = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(*name),
            _ => None,
        });
    match (dns.next(), dns.next()) {
        (Some(one), None) => NodeName::new(one).map_err(|error| bad(error.to_string())),
        _ => Err(bad("it does not have exactly one DNS name".into())),
    }
}
