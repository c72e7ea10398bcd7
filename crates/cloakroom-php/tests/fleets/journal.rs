//! What a fleet was told, and what became of it.
//!
//! Each update stores its own name beside the name of the one that it found. So what is stored in the end shows which
//! updates it was built on; an acknowledged one that is not among them was overwritten, and by whom can be told: by the
//! first after it of those that are built on the same as it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use testbed::TempDir;
use testbed::php::{Running, Script};

const WORKERS: u64 = 8;
const SESSIONS: usize = 40;

/// A worker. Which id a visitor has is in a file, as in a browser's cookie: others may still come with the id of before.
/// It tells `set ID FOUND NAME ASKED BEGUN ENDED` of what was acknowledged, `no ...` of a write that was refused, `shut ID` of a
/// session that did not start, and `gone ID`. Times are the machine's, in nanoseconds. It goes on until one is destroyed,
/// where that is to happen, however slow the machine is.
const WORKER: &str = r#"
    $destroy = getenv('DESTROY') === 'true';
    $cookies = getenv('COOKIES');
    $longest = (int) getenv('LONGEST');
    mt_srand((int) getenv('SEED'));
    $bad = false;
    set_error_handler(function ($no, $text) use (&$bad) { $bad = true; fwrite(STDERR, "$text\n"); return true; });
    $tell = function (string $line) { fwrite(STDOUT, "$line\n"); };
    $count = 0;
    $asked = 0;
    $update = function () use (&$count, &$asked) {
        $found = $_SESSION['by'] ?? '';
        $_SESSION['by'] = getenv('WORKER') . '.' . ++$count;
        return "$found $_SESSION[by] $asked " . hrtime(true);
    };
    $told = function () use (&$bad) { return $bad ? 'no' : 'set'; };
    fwrite(STDOUT, "ready\n"); fgets(STDIN);
    $end = microtime(true) + (float) getenv('SECONDS');
    while (microtime(true) < $end || ($destroy && !file_exists("$cookies/destroyed"))) {
        $bad = false;
        $cookie = $cookies . '/' . mt_rand(0, (int) getenv('SESSIONS') - 1);
        $id = file_get_contents($cookie);
        session_id($id);
        $asked = hrtime(true);
        if (!@session_start()) { $tell("shut $id"); continue; }
        if (session_id() !== $id) { session_abort(); continue; }
        $what = mt_rand(0, 9);
        usleep(mt_rand(0, mt_rand(0, 19) ? 2000 : $longest));
        if ($what < 3) {
            session_write_close();
            if ($bad) $tell("shut $id");
        } elseif ($what < 9) {
            $names = $update();
            session_write_close();
            $tell($told() . " $id $names " . hrtime(true));
        } else {
            // What is left under the old id is written once more.
            $names = $destroy ? null : $update();
            $done = session_regenerate_id($destroy);
            if ($names) $tell($told() . " $id $names " . hrtime(true));
            elseif (!$bad) { touch("$cookies/destroyed"); $tell("gone $id"); }
            if (!$done) { if (!$names) $tell("shut $id"); session_abort(); continue; }
            $bad = false;
            $new = session_id();
            $names = $update();
            session_write_close();
            $tell($told() . " $new $names " . hrtime(true));
            if (!$bad) { file_put_contents("$cookie.$new", $new); rename("$cookie.$new", $cookie); }
        }
    }
    fwrite(STDOUT, "end\n");
"#;

/// The workers of a fleet.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Whether a regenerated id takes the old session with it.
    pub(crate) destroy: bool,
    /// How long a session is held at most, in one of twenty requests; 2 ms in the others.
    pub(crate) longest: Duration,
}

/// One change of a session, as its worker saw it.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    id: String,
    /// The update that it was built on; empty for the first.
    found: String,
    name: String,
    acknowledged: bool,
    /// When its worker asked for the session, began to write what it made of what it found, and was told what became of that.
    asked: u64,
    begun: u64,
    ended: u64,
}

impl Update {
    /// The number of the worker, counted from 0.
    fn worker(&self) -> u64 {
        self.name.split('.').next().unwrap().parse().unwrap()
    }
}

/// An acknowledged update that is gone, and those one of which took its place.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) update: Update,
    pub(crate) overwritten_by: Vec<Update>,
}

impl Lost {
    /// Whether a worker of this kind overwrote it, or nobody knows who.
    pub(crate) fn is_by(&self, kind: fn(u64) -> bool) -> bool {
        self.overwritten_by.iter().all(|update| kind(update.worker()))
    }
}

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    updates: Vec<Update>,
    destroyed: BTreeSet<String>,
    /// How many sessions did not start, or were not closed well, for each worker.
    shut: Vec<u64>,
    /// What each complained of.
    complaints: Vec<String>,
}

impl Journal {
    /// Lets eight workers run to their end.
    pub(crate) fn of(load: Load, worker: impl Fn(u64, &str) -> Script) -> Journal {
        let seconds: f64 = std::env::var("SOAK").map_or(4.0, |soak| soak.parse().unwrap());
        let seed = std::env::var("SEED").map_or(u64::from(std::process::id()), |seed| seed.parse().unwrap());
        println!("SEED={seed} SOAK={seconds}");
        let cookies = TempDir::new();
        for session in 0..SESSIONS {
            cookies.write(session.to_string(), format!("{session:04}{:0>22}", seed * 100 + session as u64));
        }
        let first: Vec<String> = (0..SESSIONS)
            .map(|session| std::fs::read_to_string(cookies.join(session.to_string())).unwrap())
            .collect();
        let started = |number: u64| {
            worker(number, WORKER)
                .env("COOKIES", cookies.path().display())
                .env("SESSIONS", SESSIONS)
                .env("SECONDS", seconds)
                .env("SEED", seed + number)
                .env("WORKER", number)
                .env("DESTROY", load.destroy)
                .env("LONGEST", load.longest.as_micros())
                .limit(Duration::from_secs_f64(seconds) + Duration::from_secs(120))
                .spawn()
        };
        // In strict mode, an id is known when somebody has written it.
        let begins = "foreach (explode(' ', getenv('IDS')) as $id) {
            session_id($id); ini_set('session.use_strict_mode', 0); session_start(); $_SESSION['by'] = ''; session_write_close(); }";
        worker(0, begins).env("IDS", first.join(" ")).run().ok();
        let workers: Vec<Running> = (0..WORKERS).map(started).collect();
        workers.iter().for_each(|worker| worker.wait_for("ready"));
        workers.iter().for_each(|worker| worker.say("go"));
        let mut journal = Journal::default();
        for worker in workers {
            let ran = worker.finish();
            assert!(ran.stdout.ends_with("end\n"), "{ran}");
            journal.shut.push(0);
            journal.complaints.push(ran.stderr);
            ran.stdout.lines().for_each(|line| journal.note(line));
        }
        println!("{}", journal.summary());
        journal
    }

    fn note(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [told @ ("set" | "no"), id, found, name, asked, begun, ended] => {
                let (id, found, name) = (id.to_owned(), found.to_owned(), name.to_owned());
                let acknowledged = told == "set";
                let [asked, begun, ended] = [asked, begun, ended].map(|time| time.parse().unwrap());
                self.updates.push(Update { id, found, name, acknowledged, asked, begun, ended });
            }
            ["gone", id] => drop(self.destroyed.insert(id.to_owned())),
            ["shut", _] => *self.shut.last_mut().unwrap() += 1,
            ["ready" | "end"] => {}
            _ => panic!("a worker told {line:?}"),
        }
    }

    fn summary(&self) -> String {
        let ids: BTreeSet<&str> = self.updates.iter().map(|update| update.id.as_str()).collect();
        let mut told = vec![(0, 0); self.shut.len()];
        for update in &self.updates {
            let worker = &mut told[usize::try_from(update.worker()).unwrap()];
            if update.acknowledged { worker.0 += 1 } else { worker.1 += 1 }
        }
        format!(
            "{} updates of {} ids, {} destroyed; acknowledged and refused of each worker: {told:?}, not started: {:?}",
            self.updates.len(),
            ids.len(),
            self.destroyed.len(),
            self.shut
        )
    }

    /// Asserts that workers of a kind were refused nothing: each session started, and each write was acknowledged.
    #[track_caller]
    pub(crate) fn refused_nothing_to(&self, kind: fn(u64) -> bool) {
        let shut = self.shut.iter().zip(0..).filter(|(_, worker)| kind(*worker)).map(|(shut, _)| shut);
        let refused = shut.sum::<u64>() + self.refused(kind).count() as u64;
        let complaints = self.complaints.iter().zip(0..).filter(|(_, worker)| kind(*worker));
        let complaints: String = complaints.map(|(text, _)| text.as_str()).collect();
        assert_eq!(refused, 0, "Cloakroom refused something:\n{complaints}");
    }

    /// The writes that workers of a kind were refused.
    fn refused(&self, kind: fn(u64) -> bool) -> impl Iterator<Item = &Update> {
        self.updates.iter().filter(move |update| !update.acknowledged && kind(update.worker()))
    }

    /// The refused writes of a kind of workers that nobody had overtaken: what others wrote meanwhile, they had read.
    pub(crate) fn refused_for_nothing(&self, kind: fn(u64) -> bool) -> Vec<&Update> {
        let overtaken = |refused: &Update| {
            // When exactly it read, only the server knows.
            let known = self.before(refused);
            let meanwhile = |update: &Update| update.ended > refused.asked && update.begun < refused.ended;
            let others = self.updates.iter().filter(|update| update.name != refused.name);
            let others = others.filter(|update| !known.contains(update.name.as_str()));
            others.filter(|update| update.id == refused.id).any(meanwhile)
        };
        self.refused(kind).filter(|refused| !overtaken(refused)).collect()
    }

    /// The names of those that an update was built on.
    fn before(&self, update: &Update) -> BTreeSet<&str> {
        let found = |name: &str| self.updates.iter().find(|update| update.name == name);
        let mut known = BTreeSet::new();
        let mut next = found(&update.found);
        while let Some(update) = next {
            known.insert(update.name.as_str());
            next = found(&update.found);
        }
        known
    }

    /// Whether any session was destroyed.
    pub(crate) fn destroyed_some(&self) -> bool {
        !self.destroyed.is_empty()
    }

    /// Compares with what is stored: the acknowledged updates that it was not built on.
    pub(crate) fn lost(&self, stored: impl Fn(&str) -> Option<String>) -> Vec<Lost> {
        let mut sessions: BTreeMap<&str, Vec<&Update>> = BTreeMap::new();
        for update in &self.updates {
            sessions.entry(&update.id).or_default().push(update);
        }
        let mut lost = Vec::new();
        for (id, updates) in sessions {
            let record = stored(id);
            if self.destroyed.contains(id) {
                assert_eq!(record, None, "{id} was destroyed");
                continue;
            }
            let last = record.as_deref().map(last_update);
            lost.extend(lost_of(id, &updates, last));
        }
        for Lost { update, overwritten_by } in &lost {
            println!("lost: {update:?}, overwritten by {overwritten_by:?}");
        }
        lost
    }
}

/// Of one session, which ends with this update.
fn lost_of(id: &str, updates: &[&Update], last: Option<&str>) -> Vec<Lost> {
    let by_name: BTreeMap<&str, &Update> =
        updates.iter().map(|update| (update.name.as_str(), *update)).collect();
    // From the last to the first; what came with a regenerated id was told of the id of before.
    let mut kept: BTreeMap<&str, &Update> = BTreeMap::new();
    let mut name = last.unwrap_or_default();
    while let Some(update) = by_name.get(name) {
        kept.insert(name, update);
        name = &update.found;
    }
    let acknowledged = updates.iter().filter(|update| update.acknowledged);
    let lost = acknowledged.filter(|update| !kept.contains_key(update.name.as_str()));
    lost.map(|update| {
        let mut first: &Update = update;
        while let Some(before) =
            by_name.get(first.found.as_str()).filter(|_| !kept.contains_key(first.found.as_str()))
        {
            first = before;
        }
        let built_on = |name: &str| kept.values().find(|other| other.found == name).copied();
        assert!(last.is_some() || built_on(&first.found).is_none(), "{id}");
        // Who was done before it began has not overwritten it, but was overwritten: somebody later did it.
        let mut overwritten_by = Vec::new();
        let mut next = built_on(&first.found);
        while let Some(other) = next {
            if other.ended > first.begun {
                overwritten_by.push(other.clone());
            }
            next = built_on(&other.name).filter(|_| other.begun < first.ended);
        }
        Lost { update: (*update).clone(), overwritten_by }
    })
    .collect()
}

/// The name in a record `by|s:5:"0.123";`.
fn last_update(record: &str) -> &str {
    let name = record.split_once("by|s:").and_then(|(_, rest)| rest.split('"').nth(1));
    name.unwrap_or_else(|| panic!("not a record of a worker: {record:?}"))
}
