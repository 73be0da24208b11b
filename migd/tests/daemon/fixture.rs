//! A cluster of daemons on loopback with certificates of its own.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libmig::api::{Client, NodeInfo, NodeState, Reply, Request};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An authority and its folder.
pub(crate) struct Authority {
    pub(crate) dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    /// Writes `<name>.pem` and `<name>.key`.
    pub(crate) fn certify(&self, name: &str) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

/// A node name that no other test uses: jobs of all share one cgroup tree.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "t{}x{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// One daemon; killed when dropped.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dir: TempDir,
    pub(crate) address: SocketAddr,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/migd.sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn start(&mut self) {
        let mut log = std::fs::File::options();
        let log = log
            .append(true)
            .create(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let child = Command::new(
            std::env::var("MIG_TEST_WRAP")
                .map_or(env!("CARGO_BIN_EXE_migd").into(), std::ffi::OsString::from),
        )
        .arg("--config")
        .arg(self.dir.path().join("migd.toml"))
        .env("MIG_LOG", "debug,rustls=warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
        self.child = Some(child);
        eventually("the daemon answers", || {
            self.alive();
            Client::connect(&self.socket()).is_ok()
        });
    }

    /// Panics when the daemon has died: no input may kill it.
    pub(crate) fn alive(&mut self) {
        let child = self.child.as_mut().unwrap();
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{} died: {status}\n{}", self.name, self.log());
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Jobs outlive their daemon: ends those of a test that is over.
    fn kill_jobs(&self) {
        for root in ["/sys/fs/cgroup/unified/mig", "/sys/fs/cgroup/mig"] {
            for job in std::fs::read_dir(root).into_iter().flatten().flatten() {
                let name = job.file_name().into_string().unwrap_or_default();
                if name
                    .rsplit_once('-')
                    .is_some_and(|(node, _)| node == self.name)
                {
                    std::fs::write(job.path().join("cgroup.kill"), "1").unwrap();
                }
            }
        }
    }

    /// Largest resident size so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let pid = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        match self.client().ask(&Request::Nodes {}, |_| {}).unwrap() {
            Reply::Nodes(nodes) => nodes,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn sees_up(&self, peer: &str) -> bool {
        let peer = |node: &&NodeInfo| node.node.as_str() == peer;
        self.nodes()
            .iter()
            .find(peer)
            .is_some_and(|node| node.state == NodeState::Up)
    }

    pub(crate) fn why_down(&self, peer: &str) -> String {
        let peer = |node: &&NodeInfo| node.node.as_str() == peer;
        self.nodes()
            .iter()
            .find(peer)
            .and_then(|node| node.reason.clone())
            .unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        self.kill_jobs();
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log());
            for entry in std::fs::read_dir(self.dir.path().join("run/jobs"))
                .unwrap()
                .flatten()
            {
                let log = std::fs::read_to_string(entry.path().join("log"));
                eprintln!(
                    "--- log of {:?}\n{}",
                    entry.file_name(),
                    log.unwrap_or_default()
                );
            }
        }
    }
}

/// Daemons that know each other; none is started yet.
pub(crate) fn cluster(authority: &Authority, names: &[&str]) -> Vec<Node> {
    let addresses: Vec<SocketAddr> = names.iter().map(|_| free_address()).collect();
    let nodes = names.iter().zip(&addresses).map(|(name, address)| {
        authority.certify(name);
        let dir = tempfile::tempdir().unwrap();
        // Other users must reach the socket.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let others = names
            .iter()
            .zip(&addresses)
            .filter(|(other, _)| other != &name);
        let peers: String = others
            .map(|(peer, at)| format!("[[peers]]\nname = '{peer}'\naddress = '{at}'\n"))
            .collect();
        configure(dir.path(), name, *address, authority, &peers);
        Node {
            name: (*name).to_owned(),
            dir,
            address: *address,
            child: None,
        }
    });
    nodes.collect()
}

pub(crate) fn configure(
    dir: &Path,
    name: &str,
    address: SocketAddr,
    authority: &Authority,
    peers: &str,
) {
    let config = format!(
        "node = '{name}'\nlisten = '{address}'\nrun_dir = '{0}/run'\nstate_dir = '{0}/state'\n\
         peer_timeout = 2\nbalance = false\n[tls]\nca = '{1}/ca.pem'\ncert = '{1}/{name}.pem'\n\
         key = '{1}/{name}.key'\n{peers}",
        dir.display(),
        authority.dir.path().display(),
    );
    std::fs::write(dir.join("migd.toml"), config).unwrap();
}

/// Polls until `happens`.
pub(crate) fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happens() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads until the other end closes; the bytes.
pub(crate) fn read_to_close(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is a close too.
    drop(from.read_to_end(&mut bytes));
    bytes
}

/// The same noise in every run.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
