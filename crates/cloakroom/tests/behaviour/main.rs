//! Every store through the same cases. A store joins by a [`Subject`] in `subjects.rs`; what it does not offer, as
//! its `Guarantees` say, shows as `not offered`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod changing;
mod expiry;
mod ids;
mod leases;
mod locking;
mod looking;
mod offering;
mod reading;
mod subjects;
#[path = "../worker/mod.rs"]
mod worker;

use cloakroom::{Guarantees, SessionId, Settings, Store};
use testbed::need::Need;
use testbed::suite::{Case, case};

/// A real engine, fresh and running, that a store works on.
pub(crate) trait Subject: Send + Sync {
    /// What names it in `session.save_path`.
    fn save_path(&self) -> String;

    /// Removes the record behind the store's back, as an eviction or a foreign sweep does.
    fn evict(&self, id: &SessionId);

    /// Whether nothing at all is stored.
    fn is_empty(&self) -> bool;

    /// How many times slower it is than the others: its races are as much shorter.
    fn slowness(&self) -> u32 {
        1
    }

    /// The store of one more worker.
    fn worker(&self) -> Box<dyn Store> {
        worker::store_with(&self.save_path(), worker::patient())
    }

    /// The same with settings of its own.
    fn worker_with(&self, settings: Settings) -> Box<dyn Store> {
        worker::store_with(&self.save_path(), settings)
    }
}

/// A store in the list of them.
pub(crate) struct Entry {
    /// What its trials start with.
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    /// A save_path of its kind, to ask for its guarantees; nothing is opened.
    pub(crate) example: &'static str,
    pub(crate) start: fn() -> Box<dyn Subject>,
    /// Cases that how the engine is set up rules out.
    pub(crate) without: &'static [&'static str],
}

/// What holds for every store, or for those that offer it.
pub(crate) struct Behaviour {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&dyn Subject),
    pub(crate) not_offered: fn(&Guarantees) -> Option<&'static str>,
}

/// The behaviours with these names, each with what rules it out, if anything does.
macro_rules! behaviours {
    ($($name:ident $(unless $not_offered:expr)?),* $(,)?) => {
        pub(crate) const BEHAVIOURS: &[$crate::Behaviour] = &[$($crate::Behaviour {
            name: stringify!($name),
            run: $name,
            #[allow(unused_variables, clippy::redundant_closure_call)]
            not_offered: {
                let not_offered: fn(&cloakroom::Guarantees) -> Option<&'static str> = |_| None;
                $(let not_offered: fn(&cloakroom::Guarantees) -> Option<&'static str> = $not_offered;)?
                not_offered
            },
        }),*];
    };
}
pub(crate) use behaviours;

fn main() {
    worker::become_worker();
    let all = [
        reading::BEHAVIOURS,
        changing::BEHAVIOURS,
        locking::BEHAVIOURS,
        leases::BEHAVIOURS,
        expiry::BEHAVIOURS,
        looking::BEHAVIOURS,
        offering::BEHAVIOURS,
        ids::BEHAVIOURS,
    ];
    let mut cases = Vec::new();
    for entry in subjects::ENTRIES {
        let guarantees = worker::store(entry.example).guarantees();
        cases.extend(all.iter().flat_map(|behaviours| *behaviours).map(|one| trial(entry, one, &guarantees)));
    }
    testbed::suite::run(cases)
}

fn trial(entry: &'static Entry, behaviour: &'static Behaviour, guarantees: &Guarantees) -> Case {
    let name = format!("{}: {}", entry.name, behaviour.name);
    let case = case(name, entry.needs, || (behaviour.run)((entry.start)().as_ref()));
    let kept_out = entry.without.contains(&behaviour.name).then_some("not here, see the entry");
    match (behaviour.not_offered)(guarantees).or(kept_out) {
        Some(reason) => case.skipped(reason),
        None => case,
    }
}
