//! The peer port: who gets in, and what a stranger can do to the daemon.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use libmig::wire::version;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::fixture::{Authority, Node, Noise, cluster, eventually, read_to_close};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A TLS client that trusts `trusted` and, with `own`, shows a certificate.
fn dial(node: &Node, trusted: &Authority, own: Option<(&Authority, &str)>) -> Tls {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(trusted.path("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((authority, name)) => {
            let cert = CertificateDer::from_pem_file(authority.path(&format!("{name}.pem")));
            let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key")));
            builder
                .with_client_auth_cert(vec![cert.unwrap()], key.unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"mig/1".to_vec()];
    let name = ServerName::try_from(node.name.clone()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(node.address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    StreamOwned::new(connection, tcp)
}

/// What a dialling node says first, as `hello.rs` pins it; for `Control`.
fn hello(node: &str, versions: (u16, u16)) -> Vec<u8> {
    let mut body = Vec::new();
    for text in [node, "0", "b"] {
        body.push(u8::try_from(text.len()).unwrap());
        body.extend_from_slice(text.as_bytes());
    }
    body.extend_from_slice(&[1, 0, 0]); // generation, no CPU flags, Control
    let mut bytes = b"migpeer\0".to_vec();
    bytes.extend_from_slice(&versions.0.to_le_bytes());
    bytes.extend_from_slice(&versions.1.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

#[test]
fn nodes_find_each_other_again() {
    let authority = Authority::new();
    let mut nodes = cluster(&authority, &["n1", "n2"]);
    nodes.iter_mut().for_each(Node::start);
    eventually("both are up", || {
        nodes[0].sees_up("n2") && nodes[1].sees_up("n1")
    });
    nodes[1].kill();
    eventually("n1 sees that n2 is gone", || !nodes[0].sees_up("n2"));
    nodes[1].start();
    eventually("both are up again", || {
        nodes[0].sees_up("n2") && nodes[1].sees_up("n1")
    });
}

#[test]
fn who_has_no_good_certificate_does_not_get_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut nodes = cluster(&authority, &["n1", "n2"]);
    let node = &mut nodes[0];
    node.start();
    authority.certify("stranger");
    other.certify("n2");
    for own in [None, Some((&other, "n2"))] {
        let mut tls = dial(node, &authority, own);
        // In TLS 1.3 the client learns of its refusal with its first read.
        drop(tls.write_all(&hello("n2", (version::OLDEST, version::NEWEST))));
        let mut byte = [0];
        assert!(
            tls.read_exact(&mut byte).is_err(),
            "{own:?}",
            own = own.map(|o| o.1)
        );
    }
    // Certified, but not a configured peer; and a peer under another's name.
    for (certificate, claimed, says) in [
        ("stranger", "stranger", "not a configured peer"),
        ("n2", "n1", "another name"),
    ] {
        let mut tls = dial(node, &authority, Some((&authority, certificate)));
        tls.write_all(&hello(claimed, (version::OLDEST, version::NEWEST)))
            .unwrap();
        let said = read_to_close(&mut tls);
        assert!(
            String::from_utf8_lossy(&said).contains(says),
            "{}",
            said.escape_ascii()
        );
    }
    // A peer's daemon with a certificate of another authority, and its view.
    let mut tls = dial(node, &authority, Some((&authority, "n2")));
    tls.write_all(&hello("n2", (version::OLDEST, version::NEWEST)))
        .unwrap();
    let mut magic = [0; 8];
    tls.read_exact(&mut magic).unwrap();
    assert_eq!(&magic, b"migpeer\0");
    node.alive();
}

#[test]
fn a_node_trusts_no_other_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut ours = cluster(&authority, &["n1", "n2"]);
    other.certify("n2");
    // n2 lives where n1 expects it, but somebody else certified it.
    let (n1, n2) = ours.split_at_mut(1);
    let peers = format!("[[peers]]\nname = 'n1'\naddress = '{}'\n", n1[0].address);
    crate::fixture::configure(n2[0].dir.path(), "n2", n2[0].address, &other, &peers);
    n1[0].start();
    n2[0].start();
    eventually("n1 says why", || {
        n1[0].why_down("n2").contains("certificate")
    });
    eventually("n2 says why", || {
        n2[0].why_down("n1").contains("certificate")
    });
    assert!(!n1[0].sees_up("n2"));
}

#[test]
fn another_version_is_told_so_on_both_sides() {
    let authority = Authority::new();
    let mut nodes = cluster(&authority, &["n1", "n2"]);
    nodes[0].start();
    let mut tls = dial(&nodes[0], &authority, Some((&authority, "n2")));
    let newer = (version::NEWEST + 2, version::NEWEST + 4);
    tls.write_all(&hello("n2", newer)).unwrap();
    let said = read_to_close(&mut tls);
    let [oldest, newest] = [version::OLDEST, version::NEWEST].map(u16::to_le_bytes);
    assert_eq!(
        said,
        [&b"migpeer\0"[..], &oldest, &newest, &[0; 4]].concat(),
        "{}",
        said.escape_ascii()
    );
    let (oldest, newest) = (version::OLDEST, version::NEWEST);
    let theirs = format!("{} to {}", newer.0, newer.1);
    let logged = format!("speaks protocol versions {theirs}, this node {oldest} to {newest}");
    eventually("the daemon logs it", || nodes[0].log().contains(&logged));
}

#[test]
fn garbage_is_closed_with_a_reason_and_costs_no_memory() {
    let authority = Authority::new();
    let mut nodes = cluster(&authority, &["n1", "n2"]);
    nodes[0].start();
    let mut noise = Noise(7);
    for round in 0..200 {
        // Half of it before TLS, half of it after a good hello.
        let len = usize::try_from(noise.next() % 300).unwrap();
        let mut bytes = noise.bytes(len);
        if round % 2 == 0 {
            let mut tcp = TcpStream::connect(nodes[0].address).unwrap();
            drop(tcp.write_all(&bytes));
            continue;
        }
        let mut tls = dial(&nodes[0], &authority, Some((&authority, "n2")));
        tls.write_all(&hello("n2", (version::OLDEST, version::NEWEST)))
            .unwrap();
        if round % 4 == 1 {
            // A frame of 4 GiB is announced, then little follows.
            bytes.splice(0..0, [0xff; 4]);
        }
        drop(tls.write_all(&bytes));
        tls.conn.send_close_notify();
        drop(tls.flush());
        read_to_close(&mut tls);
    }
    nodes[0].alive();
    assert!(nodes[0].log().contains("the peer sent garbage: a frame of"));
    assert!(
        nodes[0].peak_memory() < 200 << 20,
        "{}",
        nodes[0].peak_memory()
    );
    nodes[1].start();
    eventually("it serves good peers still", || nodes[1].sees_up("n1"));
}

#[test]
fn a_silent_stranger_is_dropped_in_time() {
    let authority = Authority::new();
    let mut nodes = cluster(&authority, &["n1", "n2"]);
    nodes[0].start();
    // More than may be strangers at once: all must be let go again.
    let mut silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(nodes[0].address).unwrap())
        .collect();
    nodes[1].start();
    eventually("a peer gets in all the same", || nodes[1].sees_up("n1"));
    silent[0]
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(read_to_close(&mut silent[0]), b"");
}
