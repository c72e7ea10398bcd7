//! A worker in a process of its own, to be killed or to run elsewhere: the test program itself, started again.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::BufRead;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cloakroom::{
    Access, Change, Deadline, Environment, Hold, SavePath, SessionId, Settings, Store, Unknown, stores,
};

/// Becomes a worker if that is what this process was started for; the first thing that `main` does.
pub(crate) fn become_worker() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--worker", "hold", save_path, id, lease] => hold(save_path, id, lease.parse().unwrap()),
        ["--worker", "hammer", save_path, id, times] => hammer(save_path, id, times.parse().unwrap()),
        ["--worker", "read", save_path, id] => {
            println!("{} bytes", read(store(save_path).as_mut(), &self::id(id)).unwrap().len())
        }
        ["--worker", "admit", save_path, id] => admit(save_path, id),
        ["--worker", "write", save_path, id, length] => write(save_path, id, length.parse().unwrap()),
        _ => return,
    }
    std::process::exit(0)
}

/// The command that starts a worker.
pub(crate) fn worker(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("--worker").args(arguments);
    command
}

pub(crate) fn program() -> std::path::PathBuf {
    std::env::current_exe().unwrap()
}

/// A new worker's store.
pub(crate) fn store(save_path: &str) -> Box<dyn Store> {
    store_with(save_path, Settings::default())
}

/// Time for a machine on which much else runs, where nothing is to time out.
pub(crate) fn patient() -> Settings {
    let (connect_timeout, timeout) = (Duration::from_secs(10), Duration::from_secs(20));
    Settings { connect_timeout, timeout, ..Settings::default() }
}

pub(crate) fn store_with(save_path: &str, settings: Settings) -> Box<dyn Store> {
    let SavePath::Store(url) = SavePath::parse(save_path, &Environment::default()).unwrap() else {
        panic!("{save_path} names no store")
    };
    stores::open(&url, settings).unwrap()
}

pub(crate) fn id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).unwrap()
}

/// Long enough for anything that does not hang.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

pub(crate) const EXCLUSIVE: Access =
    Access::Exclusive { wait: Duration::from_secs(30), unknown: Unknown::Lock };

pub(crate) const LIFETIME: Duration = Duration::from_secs(1440);

/// Opens the session alone; the record, and what to commit with.
#[track_caller]
pub(crate) fn lock(store: &mut dyn Store, id: &SessionId) -> (Option<Vec<u8>>, Hold) {
    let opened = store.open(id, EXCLUSIVE, soon()).unwrap();
    (opened.record.map(|record| record.0), opened.hold)
}

/// The same, where nobody else can have the lock: far sooner than a lease ends. Who gives one back on another server than
/// the session's does not wait for that.
#[track_caller]
pub(crate) fn lock_at_once(store: &mut dyn Store, id: &SessionId) -> (Option<Vec<u8>>, Hold) {
    let at_once = Access::Exclusive { wait: Duration::from_secs(5), unknown: Unknown::Lock };
    let opened = store.open(id, at_once, soon()).unwrap();
    (opened.record.map(|record| record.0), opened.hold)
}

/// Writes a session under its lock.
#[track_caller]
pub(crate) fn put(store: &mut dyn Store, id: &SessionId, bytes: &[u8]) {
    let (_, hold) = lock(store, id);
    store.commit(id, hold, Change::Write(bytes, LIFETIME), soon()).unwrap();
}

/// Reads a session without a lock.
#[track_caller]
pub(crate) fn read(store: &mut dyn Store, id: &SessionId) -> Option<Vec<u8>> {
    store.open(id, Access::ReadOnly, soon()).unwrap().record.map(|record| record.0)
}

/// Adds one to a session that counts in a `php` record `n|i:7;`.
pub(crate) fn increment(store: &mut dyn Store, id: &SessionId, access: Access) -> cloakroom::Result<u64> {
    let opened = store.open(id, access, soon())?;
    // An empty record is a session that somebody has begun and not yet written.
    let record = opened.record.filter(|record| !record.0.is_empty());
    let count = record.map_or(0, |record| counted(&record.0)) + 1;
    let bytes = format!("n|i:{count};");
    store.commit(id, opened.hold, Change::Write(bytes.as_bytes(), LIFETIME), soon())?;
    Ok(count)
}

/// The number in a record `n|i:7;`.
#[track_caller]
pub(crate) fn counted(record: &[u8]) -> u64 {
    let text = std::str::from_utf8(record).unwrap();
    match text.strip_prefix("n|i:").and_then(|rest| rest.strip_suffix(';')) {
        Some(digits) => digits.parse().unwrap(),
        None => panic!("not a counter: {text:?}"),
    }
}

/// Keeps the lock until a line comes in, which may say `delete`, or until its end; the lease is in milliseconds.
fn hold(save_path: &str, session: &str, lease: u64) {
    let settings = Settings { lease: Duration::from_millis(lease), ..patient() };
    let (mut store, id) = (store_with(save_path, settings), id(session));
    let (_, hold) = lock(store.as_mut(), &id);
    println!("holding");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    let change = if line.trim() == "delete" { Change::Delete } else { Change::Keep };
    store.commit(&id, hold, change, soon()).unwrap();
    println!("released");
}

/// Counts on, and tells each count once it is written.
fn hammer(save_path: &str, session: &str, times: u64) {
    let (mut store, id) = (store_with(save_path, patient()), id(session));
    for _ in 0..times {
        println!("{}", increment(store.as_mut(), &id, EXCLUSIVE).unwrap());
    }
}

/// Opens the session as strict mode does, and says what is in it.
fn admit(save_path: &str, session: &str) {
    let access = Access::Exclusive { wait: Duration::from_secs(30), unknown: Unknown::Refuse };
    match store(save_path).open(&id(session), access, soon()).unwrap().record {
        Some(record) => println!("{} bytes", record.0.len()),
        None => println!("none"),
    }
}

/// Writes one record and says how that ended.
fn write(save_path: &str, session: &str, length: usize) {
    let (mut store, id) = (store(save_path), id(session));
    let written = store.open(&id, EXCLUSIVE, soon()).and_then(|opened| {
        store.commit(&id, opened.hold, Change::Write(&vec![b'x'; length], LIFETIME), soon())
    });
    match written {
        Ok(_) => println!("written"),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
}

/// Starts a worker whose output goes to `directory`.
#[track_caller]
pub(crate) fn start(command: &mut Command, directory: &Path) -> testbed::process::Process {
    testbed::process::Process::start(command, directory, "worker")
}
