//! Breaking and mending the network between two nodes.

use anyhow::{Context, Result, bail};

use super::{
    Lab, NodeId,
    journal::{Inits, Journal, Lock},
    net,
};

/// Loses every packet between two nodes, both ways, without a word to either.
pub(crate) fn cut(lab: &Lab, one: NodeId, other: NodeId) -> Result<()> {
    let (_lock, mut journal) = open(lab)?;
    if one == other {
        bail!("{one} cannot be cut off from itself");
    }
    for node in [one, other] {
        if !journal.nodes().any(|known| known == node) {
            bail!("lab {} has no node {node}", lab.name);
        }
    }
    let pair = (one.min(other), one.max(other));
    if !journal.cuts.contains(&pair) {
        journal.cuts.push(pair);
        journal.write(lab)?;
    }
    set(lab, pair, net::Path::Cut)
}

/// Mends everything that was cut.
pub(crate) fn heal(lab: &Lab) -> Result<()> {
    let (_lock, mut journal) = open(lab)?;
    for &pair in &journal.cuts {
        set(lab, pair, net::Path::Whole)?;
    }
    journal.cuts.clear();
    journal.write(lab)
}

fn open(lab: &Lab) -> Result<(Lock, Journal)> {
    let lock = Lock::take(lab)?;
    let journal = Journal::read(lab)?.filter(Journal::is_alive);
    lock.zip(journal)
        .with_context(|| format!("lab {} is not up", lab.name))
}

fn set(lab: &Lab, (one, other): (NodeId, NodeId), path: net::Path) -> Result<()> {
    let inits = Inits::read(lab)?;
    for (from, to) in [(one, other), (other, one)] {
        let init = inits.of(from).filter(|init| init.is_alive());
        let init = init.with_context(|| format!("{from} is not up"))?;
        net::set_path(init, to, path).with_context(|| format!("change the path {from} -> {to}"))?;
    }
    Ok(())
}
