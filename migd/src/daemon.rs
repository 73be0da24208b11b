//! The daemon as one value: what every request, peer and mover needs.
//!
//! Invariant: nothing here is needed by a running job; dropping it at any
//! instant loses nothing that is not on disk.

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use libmig::api::NodeName;
use libmig::inspect::cpu::CpuFeatures;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use crate::balancer::{self, Balance};
use crate::config::Config;
use crate::jobs::Jobs;
use crate::jobs::registry::Registry;
use crate::jobs::store::Store;
use crate::load::{self, Meters};
use crate::peer::hello::AcceptHello;
use crate::peer::tls::TlsConfigs;
use crate::peer::{DialHello, PeerQueues, Peers, Purpose};
use crate::{control, jobs, peer};

/// Movers that may run at the same time, in both directions together.
const MOVERS: usize = 64;

/// How long a stopping daemon waits for movers.
const GRACE: Duration = Duration::from_secs(60);

/// Shared by all; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Daemon(Arc<Inner>);

/// What there is one of.
#[derive(Debug)]
pub(crate) struct Inner {
    /// The configuration.
    pub(crate) config: Config,
    /// The jobs of this node.
    pub(crate) jobs: Jobs,
    /// The other nodes.
    pub(crate) peers: Peers,
    /// Both directions' TLS.
    pub(crate) tls: TlsConfigs,
    /// What this node and its jobs use.
    pub(crate) meters: Arc<Meters>,
    /// Who should run where.
    pub(crate) balance: Arc<Balance>,
    /// The runtime, for movers that must ask something.
    pub(crate) runtime: Handle,
    /// What programs may rely on here.
    pub(crate) cpu: CpuFeatures,
    boot: String,
    generation: u64,
    draining: AtomicBool,
    stop: watch::Sender<bool>,
    movers: Arc<Semaphore>,
}

impl Deref for Daemon {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Daemon {
    /// Opens the job table and reads the certificates; binds nothing yet.
    ///
    /// # Errors
    /// Names what cannot be read.
    pub(crate) fn build(config: Config, runtime: Handle) -> anyhow::Result<(Daemon, PeerQueues)> {
        let tls = TlsConfigs::load(&config.tls, &config.node)?;
        std::fs::create_dir_all(&config.state_dir)
            .with_context(|| format!("cannot make {}", config.state_dir.display()))?;
        let path = config.state_dir.join("jobs.redb");
        let store =
            Store::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let (registry, generation) =
            Registry::open(config.node.clone(), config.max_jobs_in, store)?;
        let meters = Arc::new(Meters::new(config.balance));
        let balance = Arc::new(Balance::new(&config));
        let jobs = Jobs::spawn(registry, Arc::clone(&meters), Arc::clone(&balance))
            .context("cannot start the job table's thread")?;
        let (peers, queues) = Peers::new(config.peers.iter().map(|peer| &peer.name));
        let inner = Inner {
            jobs,
            peers,
            tls,
            runtime,
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
                .context("cannot read the boot ID")?
                .trim()
                .to_owned(),
            generation,
            cpu: CpuFeatures::of_this_machine().without(&config.cpu_lacks),
            meters,
            balance,
            draining: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            movers: Arc::new(Semaphore::new(MOVERS)),
            config,
        };
        Ok((Daemon(Arc::new(inner)), queues))
    }

    /// Finds the jobs again, binds both sockets and starts serving.
    ///
    /// # Errors
    /// When an address is taken or a directory cannot be made.
    pub(crate) async fn start(&self, queues: PeerQueues) -> anyhow::Result<()> {
        let peers = TcpListener::bind(self.config.listen)
            .await
            .with_context(|| format!("cannot listen for peers on {}", self.config.listen))?;
        let local = control::bind(&self.config)?;
        // Before anybody can ask: what a crash left undecided is known again.
        jobs::watch::find_again(self).await;
        jobs::settle::reconcile(self).await;
        load::spawn(self)?;
        Peers::spawn(self, queues);
        self.runtime.spawn(balancer::run(self.clone()));
        self.runtime.spawn(jobs::report::run(self.clone()));
        self.runtime.spawn(peer::listener::run(self.clone(), peers));
        self.runtime.spawn(control::run(self.clone(), local));
        info!(
            node = %self.config.node,
            peers = %self.config.listen,
            socket = %self.config.socket().display(),
            start = self.generation,
            "ready"
        );
        Ok(())
    }

    /// Takes no new moves and waits for those that run. Jobs run on.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.stop.send_replace(true);
        let all = u32::try_from(MOVERS).expect("a small constant");
        let idle = self.movers.acquire_many(all);
        if tokio::time::timeout(GRACE, idle).await.is_err() {
            warn!("moves still run after {GRACE:?}; their journals settle them");
        }
    }

    /// Whether the daemon is about to stop. A mover that has not committed
    /// yet gives up when it sees this.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Runs a move on an OS thread of its own, which ptrace belongs to.
    ///
    /// # Errors
    /// When too many run, or the thread cannot be made.
    pub(crate) fn spawn_mover(
        &self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let permit = Arc::clone(&self.movers)
            .try_acquire_owned()
            .map_err(|_| io::Error::other(format!("{MOVERS} moves run already")))?;
        let span = tracing::Span::current();
        // A peer that waits for us is to hear why, and not only that time has passed.
        let patience = self.config.peer_timeout().mul_f64(0.8);
        let run = move || {
            libmig::sys::ptrace::limit_waits(patience);
            span.in_scope(work);
            drop(permit);
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)?;
        Ok(())
    }

    /// What we say when we dial.
    pub(crate) fn hello(&self, purpose: Purpose) -> DialHello {
        DialHello {
            node: self.config.node.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.clone(),
            generation: self.generation,
            cpu_features: self.cpu_features(),
            purpose,
        }
    }

    /// What we say when we are dialled.
    pub(crate) fn welcome(&self) -> AcceptHello {
        AcceptHello::Welcome {
            node: self.config.node.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.clone(),
            generation: self.generation,
            cpu_features: self.cpu_features(),
        }
    }

    fn cpu_features(&self) -> Vec<String> {
        self.cpu.instructions.iter().cloned().collect()
    }

    /// This node's name.
    pub(crate) fn node(&self) -> &NodeName {
        &self.config.node
    }
}
