//! Who the nodes of a lab are to each other: a certificate authority of the lab's own, a certificate
//! for each node, and the configuration of each migd.
//!
//! All of it lies in folders of mode 0700, the keys in files of mode 0600, and goes with the lab. The
//! authority's key is never written: nobody joins a lab later.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::Serialize;

use super::{Lab, NodeId, PEER_PORT};

/// Writes certificates and configurations for all nodes.
pub(crate) fn write(lab: &Lab, nodes: &[NodeId], balance: bool) -> Result<()> {
    let key = KeyPair::generate().context("make the key of the lab's authority")?;
    let mut params = CertificateParams::new(Vec::new()).context("describe the lab's authority")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, format!("mig lab {}", lab.name));
    let authority = params
        .self_signed(&key)
        .context("sign the lab's authority")?
        .pem();
    let issuer = Issuer::new(params, key);
    for &node in nodes {
        let config =
            toml::to_string(&Config::of(node, nodes, balance)).context("write a configuration")?;
        write_node(lab, node, &config, &authority, &issuer)
            .with_context(|| format!("write the identity of {node}"))?;
    }
    Ok(())
}

fn write_node(
    lab: &Lab,
    node: NodeId,
    config: &str,
    authority: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<()> {
    let etc = lab.node_etc(node);
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&etc)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![node.to_string()])?;
    params
        .distinguished_name
        .push(DnType::CommonName, node.to_string());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A node both opens and accepts connections.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, issuer)?;
    write_private(&etc.join("ca.pem"), authority)?;
    write_private(&etc.join("cert.pem"), &certificate.pem())?;
    write_private(&etc.join("key.pem"), &key.serialize_pem())?;
    write_private(&etc.join("migd.toml"), config)
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}

/// The configuration of a lab node's migd; its keys are documented there.
#[derive(Serialize)]
struct Config {
    node: String,
    listen: SocketAddr,
    run_dir: &'static str,
    state_dir: &'static str,
    balance: bool,
    /// Whoever works in a lab is root.
    accept_root: bool,
    tls: Tls,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Tls {
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

#[derive(Serialize)]
struct Peer {
    name: String,
    address: SocketAddr,
}

impl Config {
    fn of(node: NodeId, nodes: &[NodeId], balance: bool) -> Self {
        let address = |node: NodeId| SocketAddr::from((node.address(), PEER_PORT));
        let others = nodes.iter().filter(|&&other| other != node);
        Self {
            node: node.to_string(),
            listen: address(node),
            run_dir: "/run/mig",
            state_dir: "/var/lib/mig",
            balance,
            accept_root: true,
            tls: Tls {
                ca: "/etc/mig/ca.pem",
                cert: "/etc/mig/cert.pem",
                key: "/etc/mig/key.pem",
            },
            peers: others
                .map(|&other| Peer {
                    name: other.to_string(),
                    address: address(other),
                })
                .collect(),
        }
    }
}
