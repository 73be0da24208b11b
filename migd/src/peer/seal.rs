//! Who wrote a checkpoint: a signature of the node's own key, and its certificate.
//!
//! Invariant: a file is a program with the credentials of its processes. One is believed
//! only when a node of this cluster has signed the hash of all that is in it; what a user
//! can make or change is refused before anything of it is looked at.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use libmig::api::NodeName;
use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::sign::SigningKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, aws_lc_rs as algorithms};

use super::tls::node_name;

/// Begins what is signed: nothing else that this key signs begins so.
const CONTEXT: &[u8] = b"checkpoint of mig, contents:";

/// What this node signs with, in the order of preference, and how others check it.
const SCHEMES: [(SignatureScheme, &dyn SignatureVerificationAlgorithm); 5] = [
    (SignatureScheme::ED25519, algorithms::ED25519),
    (
        SignatureScheme::ECDSA_NISTP256_SHA256,
        algorithms::ECDSA_P256_SHA256,
    ),
    (
        SignatureScheme::ECDSA_NISTP384_SHA384,
        algorithms::ECDSA_P384_SHA384,
    ),
    (
        SignatureScheme::RSA_PSS_SHA512,
        algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    ),
    (
        SignatureScheme::RSA_PSS_SHA256,
        algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    ),
];

/// Why a file is not believed.
#[derive(Debug, Error)]
pub(crate) enum SealError {
    /// No node of this cluster.
    #[error("no node of this cluster has written it: it is of another, or made up")]
    Stranger(#[source] Option<webpki::Error>),
    /// A certificate that says another name than the file does.
    #[error("it says that node `{said}` has written it, but the signature is that of `{signed}`")]
    OtherNode {
        /// What the header says.
        said: String,
        /// What the certificate says.
        signed: NodeName,
    },
    /// It has been changed.
    #[error("it is not what node `{0}` has written: the signature is wrong")]
    Changed(NodeName),
}

/// In the file.
#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    /// The node's certificate, and those between it and the authority.
    #[serde(with = "serde_bytes_list")]
    chain: Vec<Vec<u8>>,
    /// A number of [`SignatureScheme`].
    scheme: u16,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// Certificates as byte strings.
mod serde_bytes_list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_bytes::ByteBuf;

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        let list: Vec<&serde_bytes::Bytes> = list.iter().map(|one| one[..].into()).collect();
        list.serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let list = Vec::<ByteBuf>::deserialize(from)?;
        Ok(list.into_iter().map(ByteBuf::into_vec).collect())
    }
}

/// Signs what this node writes, and checks what it reads.
#[derive(Debug)]
pub(crate) struct Seals {
    key: Arc<dyn SigningKey>,
    chain: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Seals {
    pub(super) fn new(
        key: Arc<dyn SigningKey>,
        chain: Vec<CertificateDer<'static>>,
        anchors: Vec<TrustAnchor<'static>>,
    ) -> anyhow::Result<Seals> {
        let seals = Seals {
            key,
            chain,
            anchors,
        };
        seals.seal(&[0; 32])?;
        Ok(seals)
    }

    /// A seal for these contents.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub(crate) fn seal(&self, contents: &[u8; 32]) -> std::io::Result<Vec<u8>> {
        let schemes = SCHEMES.map(|(scheme, _)| scheme);
        let signer = self
            .key
            .choose_scheme(&schemes)
            .ok_or_else(|| std::io::Error::other("this node's key is of an unknown kind"))?;
        let signed = Signed {
            chain: self.chain.iter().map(|one| one.to_vec()).collect(),
            scheme: signer.scheme().into(),
            signature: signer
                .sign(&message(contents))
                .map_err(std::io::Error::other)?,
        };
        postcard::to_stdvec(&signed).map_err(std::io::Error::other)
    }

    /// Whether node `said` of this cluster has written `contents`, at that time (seconds since
    /// 1970): a file outlives the certificate of its writer.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub(crate) fn check(
        &self,
        seal: &[u8],
        contents: &[u8; 32],
        said: &str,
        unix: u64,
    ) -> Result<(), SealError> {
        let signed: Signed = postcard::from_bytes(seal).map_err(|_| SealError::Stranger(None))?;
        let chain: Vec<CertificateDer<'_>> = signed
            .chain
            .iter()
            .map(|one| CertificateDer::from(&one[..]))
            .collect();
        let Some((own, between)) = chain.split_first() else {
            return Err(SealError::Stranger(None));
        };
        let stranger = |error| SealError::Stranger(Some(error));
        let end = EndEntityCert::try_from(own).map_err(stranger)?;
        end.verify_for_usage(
            &SCHEMES.map(|(_, algorithm)| algorithm),
            &self.anchors,
            between,
            UnixTime::since_unix_epoch(Duration::from_secs(unix)),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(stranger)?;
        let signer = node_name(own).map_err(|_| SealError::Stranger(None))?;
        let scheme = SignatureScheme::from(signed.scheme);
        let known = SCHEMES.iter().find(|(known, _)| *known == scheme);
        let right = known.is_some_and(|(_, algorithm)| {
            end.verify_signature(*algorithm, &message(contents), &signed.signature)
                .is_ok()
        });
        if !right {
            return Err(SealError::Changed(signer));
        }
        if signer.as_str() != said {
            let said = said.to_owned();
            return Err(SealError::OtherNode {
                said,
                signed: signer,
            });
        }
        Ok(())
    }
}

fn message(contents: &[u8; 32]) -> Vec<u8> {
    [CONTEXT, contents].concat()
}

/// What may be trusted to sign for nodes.
pub(super) fn anchors(
    authorities: &[CertificateDer<'static>],
) -> anyhow::Result<Vec<TrustAnchor<'static>>> {
    let anchor = |one| Ok(webpki::anchor_from_trusted_cert(one)?.to_owned());
    let anchors: Result<Vec<_>, webpki::Error> = authorities.iter().map(anchor).collect();
    let anchors = anchors.context("the authority cannot verify checkpoints")?;
    ensure!(!anchors.is_empty(), "there is no authority");
    Ok(anchors)
}
