//! A cluster: which node is asked, slots that move, masters that die.

mod load;
mod moving;
mod nodes;

use std::sync::LazyLock;

use testbed::cluster::Cluster;
use testbed::need::Need;
use testbed::suite::Case;

pub(crate) fn cases() -> Vec<Case> {
    [nodes::cases(), moving::cases(), load::cases()].into_iter().flatten().collect()
}

fn case(name: &str, needs: &[Need], run: fn()) -> Case {
    testbed::suite::case(format!("cluster: {name}"), needs, run)
}

/// The cluster of all cases that leave it whole: it takes two seconds to start.
pub(crate) fn shared() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
    &CLUSTER
}

fn key(session: &str) -> String {
    format!("PHPREDIS_CLUSTER_SESSION:{session}")
}

fn lock_key(session: &str) -> String {
    format!("{{{}}}_LOCK", key(session))
}

/// An id that the cluster keeps at the same node as this one, in another slot.
fn neighbour_of(session: &str, cluster: &Cluster) -> String {
    let home = cluster.owner_of(&key(session)).id();
    let mut others = (0..).map(|number| format!("{session}-{number}"));
    others.find(|other| cluster.owner_of(&key(other)).id() == home).unwrap()
}
