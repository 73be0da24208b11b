//! `mig ps`: the jobs of all nodes that answer.
//!
//! A job may be listed twice, by home and by its host: the higher epoch wins,
//! and at equal epochs the host, which alone knows what it uses.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use libmig::api::{JobId, JobInfo, JobState, NodeName};
use libmig::inspect::process;
use libmig::sys::HostPid;
use migd::capsule::Handle;
use tokio::task::JoinSet;

use super::Caller;
use crate::daemon::Daemon;
use crate::jobs::record::Place;
use crate::jobs::registry::JobView;
use crate::peer::message::{Answer, Question};

/// What this node knows of its jobs.
pub(crate) async fn local(daemon: &Daemon) -> Vec<JobInfo> {
    let views = daemon.jobs.views().await;
    let here = views.iter().filter(|view| view.record.is_here());
    let folders = here.map(|view| {
        let id = &view.record.id;
        (id.clone(), daemon.config.jobs_dir().join(id.to_string()))
    });
    let folders: Vec<(JobId, PathBuf)> = folders.collect();
    let asked = tokio::task::spawn_blocking(move || {
        let answers = folders.into_iter();
        answers
            .filter_map(|(id, folder)| Some((id, main_program(&folder).ok()?)))
            .collect::<HashMap<JobId, Main>>()
    });
    let mains = asked.await.unwrap_or_default();
    let told = views.into_iter().map(|view| {
        let main = mains.get(&view.record.id).copied();
        info(daemon, view, main.unwrap_or_default())
    });
    told.collect()
}

/// The main program of a job of this node, as its capsule says.
#[derive(Debug, Clone, Copy, Default)]
struct Main {
    /// As this node sees it.
    pid: Option<i32>,
    stopped: bool,
    ended: bool,
}

fn main_program(folder: &Path) -> anyhow::Result<Main> {
    let report = Handle::connect(folder)?.info()?;
    let init = HostPid::of_pidfd(report.init.as_fd())?;
    let tree = process::tree(init);
    let main = tree.iter().find(|(_, pid)| Some(*pid) == report.info.main);
    Ok(Main {
        pid: main.map(|(host, _)| host.raw()),
        stopped: report.info.stopped.is_some(),
        ended: report.info.status.is_some(),
    })
}

/// What all nodes know that answer in time; of the caller's jobs, or of all.
pub(super) async fn cluster(daemon: &Daemon, caller: Caller, all: bool) -> Vec<JobInfo> {
    let mut asked = JoinSet::new();
    for node in daemon.peers.up() {
        let daemon = daemon.clone();
        asked.spawn(async move {
            let limit = daemon.config.peer_timeout();
            let answer = daemon.peers.ask(&node, Question::Ps, limit).await;
            (node, answer)
        });
    }
    let mut merged = BTreeMap::new();
    for job in local(daemon).await {
        merge(&mut merged, daemon.node(), job);
    }
    let mut answered = vec![daemon.node().clone()];
    while let Some(done) = asked.join_next().await {
        if let Ok((node, Ok(Answer::Jobs(jobs)))) = done {
            for job in jobs {
                merge(&mut merged, &node, job);
            }
            answered.push(node);
        }
    }
    let mut jobs: Vec<JobInfo> = merged.into_values().map(|(_, job)| job).collect();
    for job in &mut jobs {
        if !answered.contains(&job.node) {
            job.state = JobState::Unreachable;
        }
    }
    jobs.retain(|job| all || job.uid == caller.uid);
    jobs
}

/// Keeps the better of two lines about one job; `teller` is who says it.
fn merge(merged: &mut BTreeMap<JobId, (NodeName, JobInfo)>, teller: &NodeName, job: JobInfo) {
    let rank = |teller: &NodeName, job: &JobInfo| (job.epoch, teller == &job.node);
    let better = merged
        .get(&job.job)
        .is_none_or(|(other, known)| rank(teller, &job) > rank(other, known));
    if better {
        merged.insert(job.job.clone(), (teller.clone(), job));
    }
}

fn info(daemon: &Daemon, view: JobView, main: Main) -> JobInfo {
    let record = view.record;
    let used = record
        .is_here()
        .then(|| daemon.meters.usage(&record.id))
        .flatten();
    let moving = view.leaving.is_some() || view.committed;
    let node = match record.place {
        Place::Here => daemon.node().clone(),
        Place::Away { node } => node,
    };
    JobInfo {
        home: record.id.home.clone(),
        job: record.id,
        name: record.name,
        user: record.user,
        uid: record.uid,
        node,
        state: match main {
            _ if moving => JobState::Moving,
            Main { ended: true, .. } => JobState::Exited,
            Main { stopped: true, .. } => JobState::Stopped,
            _ => JobState::Running,
        },
        pinned: record.pinned,
        cpu_level: record.cpu_level,
        epoch: record.epoch,
        cpu: used.map(|used| used.cores),
        memory_bytes: used.map(|used| used.memory),
        started_unix: record.started_unix,
        pid: main.pid,
        command: record.command,
    }
}
