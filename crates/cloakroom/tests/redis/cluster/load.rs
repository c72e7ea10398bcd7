//! Eight workers and forty sessions, read, counted up and given new ids at random, while slots move back and forth and
//! a master dies. Writes are acknowledged by a replica, too, while that happens. `SOAK=60` makes each part a minute long; a failure is repeated with its `SEED`.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cloakroom::{Access, Change, Deadline, Error, Outcome, Result, Settings, Store, Unknown};
use testbed::cluster::Cluster;
use testbed::suite::Case;
use testbed::wait_until;

use super::{case, key};
use crate::worker::{LIFETIME, counted, id, soon, store_with};
use crate::{LIMIT, REDIS};

const WORKERS: u64 = 8;
const SESSIONS: usize = 40;

pub(crate) fn cases() -> Vec<Case> {
    vec![case("nothing_is_lost_while_slots_move_and_a_master_dies", REDIS, nothing_is_lost)]
}

fn nothing_is_lost() {
    let cluster = Cluster::with_replicas();
    let crowd = Crowd::new();
    let mut random = Random::new(0);

    let mut moves = 0;
    crowd.work(&cluster.url(), || {
        let end = Instant::now() + part();
        while Instant::now() < end {
            moves += move_a_slot(&cluster, &crowd, &mut random);
        }
    });
    let moved = crowd.report(&format!("{moves} slots moved"));
    assert!(moves > 0);
    assert_eq!(moved.overlaps, 0, "two had the lock at once");
    crowd.check(&cluster);
    let no_lock_is_left = || {
        // Those that a request left behind end with their lease.
        wait_until("no lock is left", LIMIT, || locks(&cluster) == 0);
    };
    no_lock_is_left();

    let master = cluster.owner_of(&key(&crowd.session(0).id));
    cluster.node_timeout(Duration::from_secs(1));
    // What only the dead master had is lost with it: acknowledged is what its replica has, too.
    crowd.work(&format!("{}?wait_replicas=1", cluster.url()), || {
        std::thread::sleep(part() / 4);
        crowd.enter(Epoch::Dying);
        master.kill();
        wait_until("its replica takes over", LIMIT, || cluster.replica_of(master).is_master());
        // Until then, what is written has no replica.
        master.restart();
        wait_until("it is the replica now", LIMIT, || !master.is_master());
        cluster.settled();
        cluster.agreed();
        crowd.enter(Epoch::After);
        std::thread::sleep(part() / 2);
    });
    crowd.report("a master died");
    crowd.check(&cluster);
    no_lock_is_left();
}

/// How long each part takes.
fn part() -> Duration {
    let asked = std::env::var("SOAK").ok().map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(asked.unwrap_or(4))
}

/// Moves the slot of some session to another master, key by key; answers how many were moved.
fn move_a_slot(cluster: &Cluster, crowd: &Crowd, random: &mut Random) -> u32 {
    let key = key(&crowd.session(random.below(SESSIONS as u64) as usize).id);
    let to = &cluster.masters()[random.below(3) as usize];
    let slot = cluster.slot(&key);
    if cluster.owner(slot).id() == to.id() {
        return 0;
    }
    let migration = cluster.begin(slot, to);
    let pause = Duration::from_micros(random.below(3000));
    while migration.carry_one() {
        std::thread::sleep(pause);
    }
    migration.finish();
    1
}

fn locks(cluster: &Cluster) -> usize {
    cluster.keys().iter().filter(|key| key.ends_with("_LOCK")).count()
}

/// When a request began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Epoch {
    Whole,
    Dying,
    After,
}

/// The sessions, as their users know them.
struct Crowd {
    sessions: Vec<Mutex<Known>>,
    epoch: Mutex<Epoch>,
    requests: Mutex<Requests>,
    working: AtomicU32,
    seed: u64,
    round: AtomicU64,
}

#[derive(Debug, Clone, Default)]
struct Known {
    id: String,
    /// The counts that were written, without a warning.
    written: HashSet<u64>,
    /// How many writes ended in a warning that they may have been applied.
    perhaps: u64,
    /// How often it was given up, since nobody knows which of two ids has it.
    given_up: u64,
    /// Who has the lock.
    inside: Option<Epoch>,
}

#[derive(Debug, Clone, Default)]
struct Requests {
    /// Those that began and ended while no master was dying: done, and failed.
    done: u64,
    failed: u64,
    /// The same for the others.
    done_dying: u64,
    failed_dying: u64,
    /// How long the slowest took.
    slowest: Duration,
    overlaps: u64,
    errors: BTreeMap<String, u64>,
}

impl Crowd {
    fn new() -> Crowd {
        let seed = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = seed.unwrap_or(u64::from(std::process::id()));
        println!("SEED={seed}");
        let session = |number| Mutex::new(Known { id: format!("s{number}"), ..Known::default() });
        Crowd {
            sessions: (0..SESSIONS).map(session).collect(),
            epoch: Mutex::new(Epoch::Whole),
            requests: Mutex::default(),
            working: AtomicU32::new(0),
            seed,
            round: AtomicU64::new(0),
        }
    }

    fn session(&self, number: usize) -> MutexGuard<'_, Known> {
        self.sessions[number].lock().unwrap()
    }

    fn enter(&self, epoch: Epoch) {
        *self.epoch.lock().unwrap() = epoch;
    }

    fn epoch(&self) -> Epoch {
        *self.epoch.lock().unwrap()
    }

    /// Lets the workers work while something is done to the cluster.
    fn work(&self, save_path: &str, meanwhile: impl FnOnce()) {
        self.working.store(1, Ordering::SeqCst);
        let round = self.round.fetch_add(1, Ordering::SeqCst);
        std::thread::scope(|scope| {
            for number in 0..WORKERS {
                let random = Random::new(self.seed + round * WORKERS + number + 1);
                scope.spawn(move || self.requests(save_path, random));
            }
            // Also when it panics: the workers would go on for ever.
            let _stop = Stop(&self.working);
            meanwhile();
        });
    }

    fn requests(&self, save_path: &str, mut random: Random) {
        let settings = Settings { lease: Duration::from_secs(5), ..Settings::default() };
        let mut store = store_with(save_path, settings);
        while self.working.load(Ordering::SeqCst) == 1 {
            let (began, at) = (self.epoch(), Instant::now());
            let done = self.request(store.as_mut(), &mut random);
            let mut requests = self.requests.lock().unwrap();
            requests.slowest = requests.slowest.max(at.elapsed());
            let dying = began == Epoch::Dying || self.epoch() != began;
            match (&done, dying) {
                (Ok(()), false) => requests.done += 1,
                (Ok(()), true) => requests.done_dying += 1,
                (Err(_), false) => requests.failed += 1,
                (Err(_), true) => requests.failed_dying += 1,
            }
            if let Err(error) = done {
                let text = format!("{dying} {:?} {error}", error.kind());
                *requests.errors.entry(text).or_default() += 1;
            }
            drop(requests);
            // As long as a page takes that does nothing else.
            std::thread::sleep(Duration::from_micros(random.below(2000)));
        }
    }

    fn request(&self, store: &mut dyn Store, random: &mut Random) -> Result<()> {
        let number = random.below(SESSIONS as u64) as usize;
        match random.below(10) {
            0..5 => self.read(store, number),
            5..9 => self.count_up(store, number),
            _ => self.regenerate(store, number, random),
        }
    }

    fn read(&self, store: &mut dyn Store, number: usize) -> Result<()> {
        let before = self.session(number).clone();
        let opened = store.open(&id(&before.id), Access::ReadOnly, until(Duration::ZERO))?;
        let after = self.session(number);
        if after.id == before.id {
            let count = opened.record.map_or(0, |record| counted(&record.0));
            let last = before.written.iter().max().copied().unwrap_or(0);
            assert!(count >= last, "session {} was at {last}, and is read as {count}", before.id);
        }
        Ok(())
    }

    fn count_up(&self, store: &mut dyn Store, number: usize) -> Result<()> {
        let (known, given_up) = {
            let session = self.session(number);
            (session.id.clone(), session.given_up)
        };
        let opened = store.open(&id(&known), EXCLUSIVE, until(WAIT))?;
        let count = {
            let mut session = self.session(number);
            let record = opened.record.as_ref().map(|record| counted(&record.0));
            if session.id != known {
                // It got another id while this request waited for it.
                None
            } else {
                self.come_in(&mut session);
                Some(record.unwrap_or(0) + 1)
            }
        };
        let Some(count) = count else {
            return store.commit(&id(&known), opened.hold, Change::Keep, until(Duration::ZERO)).map(drop);
        };
        std::thread::yield_now();
        self.session(number).inside = None;
        let bytes = format!("n|i:{count};");
        let change = Change::Write(bytes.as_bytes(), LIFETIME);
        let written = store.commit(&id(&known), opened.hold, change, until(Duration::ZERO));
        let mut session = self.session(number);
        if session.given_up != given_up {
            return written.map(drop);
        }
        match &written {
            Ok(_) => {
                let new = session.written.insert(count);
                assert!(new, "{count} was written twice to {known}");
            }
            Err(error) if error.outcome() == Outcome::Unknown => session.perhaps += 1,
            Err(_) => {}
        }
        written.map(drop)
    }

    fn regenerate(&self, store: &mut dyn Store, number: usize, random: &mut Random) -> Result<()> {
        let old = self.session(number).id.clone();
        let new = format!("s{number}-{}", random.next());
        let opened = store.open(&id(&old), EXCLUSIVE, until(WAIT))?;
        let keep = |store: &mut dyn Store, hold| {
            store.commit(&id(&old), hold, Change::Keep, until(Duration::ZERO)).map(drop)
        };
        let Some(record) = opened.record.clone().filter(|_| self.session(number).id == old) else {
            return keep(store, opened.hold);
        };
        let begun = store.open(&id(&new), EXCLUSIVE, until(WAIT)).and_then(|begun| {
            let change = Change::Write(&record.0, LIFETIME);
            store.commit(&id(&new), begun.hold, change, until(Duration::ZERO))
        });
        if let Err(error) = begun {
            // PHP would have warned already: the lock is let go in silence.
            let _ = keep(store, opened.hold);
            return Err(error);
        }
        // Before others find nothing under the old one.
        self.session(number).id.clone_from(&new);
        let deleted = store.commit(&id(&old), opened.hold, Change::Delete, until(Duration::ZERO));
        deleted.map(drop).inspect_err(|_: &Error| {
            let mut session = self.session(number);
            let given_up = session.given_up + 1;
            *session = Known { id: format!("{new}-{given_up}"), given_up, ..Known::default() };
        })
    }

    fn come_in(&self, session: &mut Known) {
        let epoch = self.epoch();
        // A lock that only the dead master knew is lost with it, and what its holder writes is refused.
        if session.inside.is_some_and(|other| other == epoch) && epoch != Epoch::Dying {
            self.requests.lock().unwrap().overlaps += 1;
        }
        session.inside = Some(epoch);
    }

    /// Says how it went, and begins anew.
    fn report(&self, what: &str) -> Requests {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        println!(
            "{what}: {} done, {} failed; while it died {} done, {} failed; the slowest took {:?}",
            requests.done, requests.failed, requests.done_dying, requests.failed_dying, requests.slowest
        );
        for (error, times) in &requests.errors {
            println!("{times} x {error}");
        }
        let all = requests.done + requests.failed;
        assert!(requests.done * 100 >= all * 95, "{requests:?}");
        requests
    }

    /// Compares what is stored with what was acknowledged.
    fn check(&self, cluster: &Cluster) {
        let mut store = store_with(&cluster.url(), Settings::default());
        for number in 0..SESSIONS {
            let session = self.session(number);
            let stored = store.open(&id(&session.id), Access::ReadOnly, soon()).unwrap().record;
            let count = stored.map_or(0, |record| counted(&record.0));
            let least = session.written.len() as u64;
            assert!((least..=least + session.perhaps).contains(&count), "{count} is stored: {session:?}");
        }
    }
}

/// How long a request waits for a lock.
const WAIT: Duration = Duration::from_secs(10);
const EXCLUSIVE: Access = Access::Exclusive { wait: WAIT, unknown: Unknown::Lock };

/// The deadline that PHP's requests have.
fn until(wait: Duration) -> Deadline {
    let settings = Settings::default();
    Deadline::after(settings.connect_timeout + settings.timeout + wait)
}

struct Stop<'a>(&'a AtomicU32);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// Numbers that come again with the same seed (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}
