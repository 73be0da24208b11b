//! `migd`: the daemon of a node.
//!
//! Reads its configuration, finds the jobs that run, serves `mig` and the
//! other daemons, and stops without a job noticing.

mod balancer;
mod config;
mod control;
mod cpu;
mod daemon;
mod jobs;
mod load;
mod moves;
mod peer;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use config::Config;
use daemon::Daemon;

/// The mig daemon: one per node, as root.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The configuration file; docs/migd.toml explains its keys.
    #[arg(long, value_name = "PATH", default_value = config::PATH)]
    config: PathBuf,
    /// Check the configuration and the certificates, and exit.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    // A capsule's init is this program too, and must have no thread.
    if let Some(code) = migd::capsule::run_if_asked() {
        return code;
    }
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("Caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let config = Config::read(&args.config)?;
    if args.check_config {
        peer::tls::TlsConfigs::load(&config.tls, &config.node)?;
        println!("{}: no errors", args.config.display());
        return Ok(());
    }
    log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let (daemon, queues) = Daemon::build(config, runtime.handle().clone())?;
    runtime.block_on(async {
        daemon.start(queues).await?;
        notify(sd_notify::NotifyState::Ready);
        stop_signal().await?;
        notify(sd_notify::NotifyState::Stopping);
        info!("stopping; jobs run on");
        daemon.drain().await;
        anyhow::Ok(())
    })?;
    runtime.shutdown_background();
    Ok(())
}

/// Logs go to stderr, where systemd picks them up. MIG_LOG selects, for
/// example `MIG_LOG=migd=debug`.
fn log() {
    let filter = EnvFilter::try_from_env("MIG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Tells systemd, if it started us.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "systemd cannot be told");
    }
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
