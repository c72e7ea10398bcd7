//! `cloakroom check`: one session, locked, written, read and deleted for real, by two workers.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use cloakroom::{
    Access, Change, Deadline, Environment, Error, ErrorKind, Extent, Finding, Gravity, Guarantees, Hold,
    LockKind, Opened, Record, Result, SavePath, SessionId, Store, StoreUrl, Unknown, detect, stores,
};
use serde_json::{Map, Value, json};

use crate::output::say;
use crate::store::settings;

/// Locks, writes, reads and deletes one session for real, and says what it saw
///
/// Two workers share a session under an id that is made up, and nothing of it stays. Then the engine is asked how it is set up.
///
/// Exit codes: 0 the store keeps sessions and locks them, 1 it does not, or cannot be reached, 2 wrong usage.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What session.save_path says: a directory, tcp://host:6379, redis://host, memcached://host, env:NAME, auto, ...
    save_path: String,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

/// How long the record lives should this command be killed before it deletes it.
const LIFETIME: Duration = Duration::from_secs(60);

/// Enough for one step with every timeout of [`cloakroom::Settings`] used up.
const STEP: Duration = Duration::from_secs(10);

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut report = Report::new(arguments.json);
    let done = session_life(&arguments.save_path, &mut report);
    report.end(done.as_ref().err());
    done.map(|()| ExitCode::SUCCESS)
}

fn session_life(save_path: &str, report: &mut Report) -> Result<()> {
    let environment = Environment::of_process();
    let (url, because) = match SavePath::parse(save_path, &environment)? {
        SavePath::Store(url) => (url, None),
        SavePath::Detect => {
            let found = detect::detect(&environment, &std::env::temp_dir().to_string_lossy())?;
            (found.url, Some(found.because))
        }
    };
    let (mut first, _connected) = live(&url, because.as_deref(), &environment, report)?;
    look_at_the_engine(&mut first, report)
}

/// The same without a word about it; for the doctor.
pub(crate) fn try_out(url: &StoreUrl, environment: &Environment) -> Result<()> {
    live(url, None, environment, &mut Report::new(true)).map(drop)
}

fn live(
    url: &StoreUrl,
    because: Option<&str>,
    environment: &Environment,
    report: &mut Report,
) -> Result<(Worker, Worker)> {
    let open = || stores::open(url, settings(environment));
    let id = random_id()?;
    let mut first = Worker { store: open()?, id: id.clone(), began: false };
    let mut second = Worker { store: open()?, id, began: false };
    let resolved = first.store.resolved(soon());
    let guarantees = first.store.guarantees();
    report.begin(url, because, &guarantees, resolved.as_deref().unwrap_or_default());
    resolved?;
    let done = first.session_life(&mut second, report);
    if done.is_err() && first.began {
        first.clean_up();
    }
    done.map(|()| (first, second))
}

/// How the engine is set up: what endangers sessions is said, and where locks cannot hold, nothing is fine.
fn look_at_the_engine(worker: &mut Worker, report: &mut Report) -> Result<()> {
    let findings = match worker.store.guarantees().lock {
        // A directory is configured nowhere else.
        LockKind::Kernel => Vec::new(),
        LockKind::Lease => {
            report.step("look at its configuration", worker, |store| store.inspect(Extent::Whole, soon()))?
        }
    };
    report.found(&findings);
    match findings.into_iter().find(|finding| finding.gravity == Gravity::Unsafe) {
        None => Ok(()),
        Some(Finding { what, hint, place, .. }) => {
            Err(Error::new(ErrorKind::Unsupported, what).on(place).hint(hint))
        }
    }
}

/// One of two workers that share a session.
struct Worker {
    store: Box<dyn Store>,
    id: SessionId,
    /// Whether there may be something to take away.
    began: bool,
}

impl Worker {
    fn session_life(&mut self, second: &mut Worker, report: &mut Report) -> Result<()> {
        let record = Record(b"cloakroom_check|b:1;".to_vec());
        let id = self.id.clone();

        let there = report.step("reach the store", self, |store| store.exists(&id, soon()))?;
        expect(!there, "the store has a session under an id that was made up just now")?;

        let opened =
            report.step("lock and read a new session", self, |store| store.open(&id, ALONE, soon()))?;
        self.began = true;
        expect(opened.record.is_none(), "the store read a session that nobody has written")?;

        report.step("keep a second worker out", second, |store| match store.open(&id, AT_ONCE, soon()) {
            Err(error) if error.kind() == ErrorKind::LockBusy => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(ErrorKind::Unsupported, "two workers got the same lock at once")
                .hint("locks do not work there; on NFS, mount without nolock and local_lock")),
        })?;

        let change = Change::Write(&record.0, LIFETIME);
        report.step("write and unlock", self, |store| store.commit(&id, opened.hold, change, soon()))?;

        let Opened { record: read, hold, .. } =
            report.step("lock and read it again", self, |store| store.open(&id, ALONE, soon()))?;
        expect(read.as_ref() == Some(&record), "the store did not give back what was written")?;

        report.step("delete and unlock", self, |store| store.commit(&id, hold, Change::Delete, soon()))?;

        // A lock left behind would keep the next visitor waiting: the second worker must get it at once.
        let opened =
            report.step("find nothing left", second, |store| store.open(&id, UNLESS_UNKNOWN, soon()))?;
        expect(opened.record.is_none(), "the session is still there after it was deleted")
    }

    /// After an error: takes away what is left of the session. What cannot be taken away expires.
    fn clean_up(&mut self) {
        if let Ok(Opened { hold: hold @ Hold::Lease(_), .. }) = self.store.open(&self.id, AT_ONCE, soon()) {
            let _ = self.store.commit(&self.id, hold, Change::Delete, soon());
        }
    }
}

const ALONE: Access = Access::Exclusive { wait: Duration::from_secs(1), unknown: Unknown::Lock };
const AT_ONCE: Access = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
const UNLESS_UNKNOWN: Access = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };

fn soon() -> Deadline {
    Deadline::after(STEP)
}

fn expect(held: bool, otherwise: &str) -> Result<()> {
    match held {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Corrupt, otherwise)
            .hint("look for a proxy, a cache or an eviction between this host and the store")),
    }
}

/// As PHP makes them, so that a directory with levels has one for it.
pub(crate) fn random_id() -> Result<SessionId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::new(ErrorKind::Bug, format!("no random bytes: {error}")))?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    SessionId::parse(digits.as_bytes())
}

/// What is printed while it happens, or as one JSON value at the end.
struct Report {
    json: bool,
    value: Map<String, Value>,
    steps: Vec<Value>,
}

impl Report {
    fn new(json: bool) -> Self {
        Report { json, value: Map::new(), steps: Vec::new() }
    }

    fn begin(
        &mut self,
        url: &StoreUrl,
        because: Option<&str>,
        guarantees: &Guarantees,
        resolved: &[(&'static str, String)],
    ) {
        let guarantees = in_words(guarantees);
        if self.json {
            self.value.insert("store".into(), url.to_string().into());
            self.value.insert("detected".into(), because.into());
            let guarantees = guarantees.into_iter().map(|(what, how)| (what.to_owned(), how.into()));
            self.value.insert("guarantees".into(), Value::Object(guarantees.collect()));
            if !resolved.is_empty() {
                let resolved = resolved.iter().map(|(what, how)| ((*what).to_owned(), how.as_str().into()));
                self.value.insert("resolved".into(), Value::Object(resolved.collect()));
            }
            return;
        }
        let because = because.map(|because| format!(" ({because})")).unwrap_or_default();
        say!("store: {url}{because}\n");
        for (what, how) in resolved {
            say!("  {what:<28} {how}");
        }
        for (what, how) in guarantees {
            say!("  {what:<28} {how}");
        }
        say!("\n  {:<28} {:>10} {:>10} {:>9}", "step", "time", "exchanges", "connects");
    }

    fn step<T>(
        &mut self,
        name: &str,
        worker: &mut Worker,
        act: impl FnOnce(&mut dyn Store) -> Result<T>,
    ) -> Result<T> {
        let before = worker.store.counters();
        let start = Instant::now();
        let done = act(worker.store.as_mut());
        let milliseconds = start.elapsed().as_secs_f64() * 1000.0;
        let after = worker.store.counters();
        let exchanges = after.exchanges - before.exchanges;
        let connects = after.connects - before.connects;
        if self.json {
            self.steps.push(json!({
                "step": name, "ok": done.is_ok(), "milliseconds": milliseconds, "exchanges": exchanges,
                "connects": connects,
            }));
        } else {
            let failed = if done.is_ok() { "" } else { "  failed" };
            let or_none = |count: u64| if count == 0 { "-".to_owned() } else { count.to_string() };
            let (exchanges, connects) = (or_none(exchanges), or_none(connects));
            say!("  {name:<28} {milliseconds:>7.2} ms {exchanges:>10} {connects:>9}{failed}");
        }
        done
    }

    fn found(&mut self, findings: &[Finding]) {
        let gravity = |finding: &Finding| match finding.gravity {
            Gravity::Unsafe => "unsafe",
            Gravity::Risk => "warning",
            Gravity::Note => "note",
        };
        if self.json {
            let findings = findings.iter().map(|finding| {
                json!({
                    "gravity": gravity(finding), "what": finding.what, "hint": finding.hint, "store": finding.place,
                })
            });
            self.value.insert("findings".into(), findings.collect());
            return;
        }
        // What is unsafe is the error at the end.
        for finding in findings.iter().filter(|finding| finding.gravity != Gravity::Unsafe) {
            say!("\n{}: {finding}", gravity(finding));
        }
    }

    fn end(mut self, error: Option<&Error>) {
        if self.json {
            self.value.insert("ok".into(), error.is_none().into());
            self.value.insert("error".into(), error.map(ToString::to_string).into());
            self.value.insert("steps".into(), self.steps.into());
            say!("{:#}", Value::Object(self.value));
        } else if error.is_none() {
            say!("\nok: the store keeps sessions, and locks them");
        }
    }
}

fn in_words(guarantees: &Guarantees) -> [(&'static str, String); 7] {
    [
        ("lock of a worker that died", guarantees.lock.to_string()),
        ("shared between hosts", guarantees.shared_between_hosts.to_string()),
        ("survives a restart", guarantees.survives_restart.to_string()),
        ("expired sessions", guarantees.sweeping.to_string()),
        (
            "largest session",
            guarantees.size_limit.map_or("no limit".into(), |bytes| format!("{bytes} bytes")),
        ),
        ("waiting requests counted", guarantees.waiter_cap.to_string()),
        ("sessions can be listed", if guarantees.listing { "yes" } else { "no" }.to_owned()),
    ]
}
