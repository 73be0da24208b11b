//! Busy jobs, all started on one node, spread by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libmig::api::JobInfo;

use super::{NODES, Node, Stage};
use crate::lab::Lab;

const JOBS: [&str; 4] = ["busy-1", "busy-2", "busy-3", "busy-4"];
/// How long the balancer may take: it lets a job stay for some seconds before it moves it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays the act.
pub(super) fn play(lab: &Lab, stage: &Stage) -> Result<()> {
    stage.act("Four busy jobs, all started on n1");
    let home = Node::new(lab, "n1");
    for job in JOBS {
        // The name is an argument too, by which the kernel's view of the job is found.
        let spin = "while :; do :; done";
        home.run(&[
            "mig", "exec", "--detach", "--name", job, "--", "sh", "-c", spin, job,
        ])?;
    }
    let start = Instant::now();
    let mut shown = String::new();
    loop {
        let jobs: Vec<JobInfo> = home.json(&["mig", "ps", "--json"])?;
        let places = places(&jobs)?;
        let picture = picture(&places);
        stage.now(&picture, picture != shown);
        if NODES
            .iter()
            .all(|node| places.iter().any(|(_, place)| place == node))
        {
            confirm(lab, &places)?;
            stage.check(
                "they have spread over all nodes by themselves",
                &seconds(start),
            );
            stage.note(&picture);
            break;
        }
        shown = picture;
        if start.elapsed() > PATIENCE {
            bail!(
                "after {} s there is still a node without work: {shown}",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    for job in JOBS {
        home.run(&["mig", "kill", job])?;
    }
    Ok(())
}

fn seconds(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f64())
}

/// Which job is where.
fn places(jobs: &[JobInfo]) -> Result<Vec<(&'static str, String)>> {
    let place = |name: &'static str| {
        let job = jobs.iter().find(|job| job.name.as_deref() == Some(name));
        let job = job.with_context(|| format!("the job {name} is gone"))?;
        Ok((name, job.node.to_string()))
    };
    JOBS.into_iter().map(place).collect()
}

/// Asks the kernel whether there is work on every node, and each job in one place.
fn confirm(lab: &Lab, places: &[(&str, String)]) -> Result<()> {
    for (job, place) in places {
        super::node::eventually(
            &format!("{job} runs on {place} and nowhere else"),
            Duration::from_secs(5),
            || {
                let mut found = Vec::new();
                for node in NODES {
                    if Node::new(lab, node).runs(job)? {
                        found.push(node);
                    }
                }
                // It may have been moved on in the meantime.
                Ok(found.len() == 1)
            },
        )?;
    }
    Ok(())
}

fn picture(places: &[(&str, String)]) -> String {
    let column = |node: &&str| {
        let count = places.iter().filter(|(_, place)| place == node).count();
        format!("{node} {:<4}", "●".repeat(count))
    };
    NODES.iter().map(column).collect::<Vec<_>>().join("   ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_counts_jobs() {
        let places = [
            ("busy-1", "n1".to_owned()),
            ("busy-2", "n3".to_owned()),
            ("busy-3", "n1".to_owned()),
        ];
        assert_eq!(picture(&places), "n1 ●●     n2        n3 ●   ");
    }
}
