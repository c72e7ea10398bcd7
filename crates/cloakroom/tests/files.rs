//! The files store where it differs from the others: beside PHP's own `files` handler, and on a hostile or full disk.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod worker;

use std::fs::{self, File};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use cloakroom::{
    Access, Change, Committed, Deadline, ErrorKind, Hold, Record, Seen, Settings, Store, Unknown,
};
use testbed::need::Need;
use testbed::php::Script;
use testbed::suite::{Case, case};
use testbed::{TempDir, wait_until};
use worker::{
    EXCLUSIVE, LIFETIME, become_worker, counted, id, increment, lock, put, read, soon, start, store,
    store_with,
};

fn main() {
    become_worker();
    testbed::suite::run(cases())
}

fn cases() -> Vec<Case> {
    let php = &[Need::Php][..];
    let root = &[Need::MountNamespaces][..];
    vec![
        case("a_record_written_here_is_read_by_php", php, a_record_written_here_is_read_by_php),
        case("a_record_written_by_php_is_read_here", php, a_record_written_by_php_is_read_here),
        case("php_waits_for_a_lock_of_ours", php, php_waits_for_a_lock_of_ours),
        case("a_lock_of_php_is_waited_for", php, a_lock_of_php_is_waited_for),
        case("half_php_half_ours_lose_no_update", php, half_php_half_ours_lose_no_update),
        case(
            "php_waiting_for_a_deleted_session_sees_it_empty",
            php,
            php_waiting_for_a_deleted_session_sees_it_empty,
        ),
        case("a_read_without_a_lock_is_never_torn", php, a_read_without_a_lock_is_never_torn),
        case("the_inode_of_a_session_never_changes", &[], the_inode_of_a_session_never_changes),
        case("a_waiter_that_wins_late_lets_go", &[], a_waiter_that_wins_late_lets_go),
        case("a_worker_stands_in_a_queue_once", &[], a_worker_stands_in_a_queue_once),
        case("who_reads_without_the_lock_is_no_waiter", &[], who_reads_without_the_lock_is_no_waiter),
        case("a_write_after_a_foreign_sweep_is_not_lost", &[], a_write_after_a_foreign_sweep_is_not_lost),
        case("a_write_gives_way_to_a_session_begun_anew", &[], a_write_gives_way_to_a_session_begun_anew),
        case("an_empty_file_is_an_empty_session", &[], an_empty_file_is_an_empty_session),
        case("an_expired_record_is_not_served", &[], an_expired_record_is_not_served),
        case("a_symbolic_link_is_not_followed", &[], a_symbolic_link_is_not_followed),
        case("a_fifo_is_refused_and_does_not_hang", &[], a_fifo_is_refused_and_does_not_hang),
        case(
            "a_missing_directory_is_an_error_not_a_new_session",
            &[],
            a_missing_directory_is_an_error_not_a_new_session,
        ),
        case(
            "a_sweep_goes_on_where_it_stopped_and_spares_the_locked",
            &[],
            a_sweep_goes_on_where_it_stopped_and_spares_the_locked,
        ),
        case("a_foreign_file_is_refused", root, a_foreign_file_is_refused),
        case("a_full_disk_loses_nothing", root, a_full_disk_loses_nothing),
    ]
}

/// How long something may take that happens at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A directory for sessions, and the save_path that names it.
struct Place {
    directory: TempDir,
    save_path: String,
}

fn place() -> Place {
    let directory = TempDir::new();
    let save_path = directory.path().to_str().unwrap().to_owned();
    Place { directory, save_path }
}

impl Place {
    fn store(&self) -> Box<dyn Store> {
        store(&self.save_path)
    }

    fn file(&self, session: &str) -> std::path::PathBuf {
        self.directory.join(format!("sess_{session}"))
    }

    /// A script on the same sessions, with PHP's own handler.
    fn php(&self, code: &str) -> Script {
        Script::new(code)
            .ini("session.save_handler", "files")
            .ini("session.save_path", &self.save_path)
            .ini("session.use_cookies", "0")
            .ini("session.use_only_cookies", "0")
            .ini("session.cache_limiter", "")
    }
}

fn age(path: &Path, age: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

fn a_record_written_here_is_read_by_php() {
    let place = place();
    fs::create_dir_all(place.directory.join("a/b")).unwrap();
    for (save_path, file, mode) in
        [("", "sess_abc", 0o600), ("2;", "a/b/sess_abc", 0o600), ("2;0640;", "a/b/sess_abc", 0o640)]
    {
        let save_path = format!("{save_path}{}", place.save_path);
        put(store(&save_path).as_mut(), &id("abc"), b"n|i:41;who|s:3:\"you\";");
        let stat = fs::metadata(place.directory.join(file)).unwrap();
        assert_eq!(stat.permissions().mode() & 0o777, mode, "{save_path}");
        let script = "session_id('abc'); session_start(); echo json_encode($_SESSION);";
        let printed = place.php(script).ini("session.save_path", &save_path).run().ok();
        assert_eq!(printed, r#"{"n":41,"who":"you"}"#, "{save_path}");
        fs::remove_file(place.directory.join(file)).unwrap();
    }
}

fn a_record_written_by_php_is_read_here() {
    let place = place();
    fs::create_dir_all(place.directory.join("a/b")).unwrap();
    for levels in ["", "2;", "2;0640;"] {
        let save_path = format!("{levels}{}", place.save_path);
        let script =
            "session_id('abc'); session_start(); $_SESSION['n'] = strlen(ini_get('session.save_path'));";
        place.php(script).ini("session.save_path", &save_path).run().ok();
        let expected = format!("n|i:{};", save_path.len());
        let mut store = store(&save_path);
        assert_eq!(read(store.as_mut(), &id("abc")), Some(expected.clone().into()), "{save_path}");
        assert_eq!(lock(store.as_mut(), &id("abc")).0, Some(expected.into()), "{save_path}");
    }
}

fn php_waits_for_a_lock_of_ours() {
    let place = place();
    let mut store = place.store();
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let php = place
        .php("echo 'ready'; session_id('abc'); session_start(); echo $_SESSION['n']; $_SESSION['n']++;")
        .spawn();
    php.wait_for("ready");
    wait_for_waiters(&place.file("abc"), 1);
    store.commit(&id("abc"), hold, Change::Write(b"n|i:1;", LIFETIME), soon()).unwrap();
    assert_eq!(php.finish().ok(), "ready1");
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}

fn a_lock_of_php_is_waited_for() {
    let place = place();
    let php = place
        .php("session_id('abc'); session_start(); echo 'locked'; fgets(STDIN); $_SESSION['n'] = 1;")
        .spawn();
    php.wait_for("locked");
    let mut store = place.store();
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    let error = store.open(&id("abc"), at_once, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
    std::thread::scope(|scope| {
        let ours = scope.spawn(|| lock(place.store().as_mut(), &id("abc")).0);
        wait_for_waiters(&place.file("abc"), 1);
        php.say("");
        assert_eq!(ours.join().unwrap().unwrap(), b"n|i:1;");
    });
    php.finish().ok();
}

fn half_php_half_ours_lose_no_update() {
    let place = place();
    let script = "for ($i = 0; $i < 200; $i++) {
        session_id('abc'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close();
    }";
    let native: Vec<_> = (0..4).map(|_| place.php(script).spawn()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut store = place.store();
                for _ in 0..200 {
                    increment(store.as_mut(), &id("abc"), EXCLUSIVE).unwrap();
                }
            });
        }
    });
    for php in native {
        php.finish().ok();
    }
    assert_eq!(counted(&read(place.store().as_mut(), &id("abc")).unwrap()), 1600);
}

/// As after a logout: what the deleted session held must not come back through somebody who waited for it.
fn php_waiting_for_a_deleted_session_sees_it_empty() {
    let place = place();
    let mut store = place.store();
    put(store.as_mut(), &id("abc"), b"user|s:5:\"alice\";");
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let php = place.php("session_id('abc'); session_start(); echo json_encode($_SESSION);").spawn();
    wait_for_waiters(&place.file("abc"), 1);
    store.commit(&id("abc"), hold, Change::Delete, soon()).unwrap();
    assert_eq!(php.finish().ok(), "[]");
    assert_eq!(read(store.as_mut(), &id("abc")), None);
}

fn a_read_without_a_lock_is_never_torn() {
    let place = place();
    let writers: Vec<_> = (0..2)
        .map(|_| {
            place
                .php(
                    "while (true) foreach (['a' => 90000, 'b' => 5, 'c' => 20000] as $letter => $length) {
                        session_id('abc'); session_start();
                        $_SESSION['n'] = str_repeat($letter, $length);
                        session_write_close();
                    }",
                )
                .spawn()
        })
        .collect();
    let mut store = place.store();
    wait_until("the first record", LIMIT, || {
        read(store.as_mut(), &id("abc")).is_some_and(|bytes| !bytes.is_empty())
    });
    let mut seen = std::collections::BTreeSet::new();
    let (mut reads, enough) = (0, Deadline::after(Duration::from_secs(60)));
    // On a busy machine the writers may rest for long.
    while reads < 3000 || (seen.len() < 3 && !enough.passed()) {
        reads += 1;
        let bytes = read(store.as_mut(), &id("abc")).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        let letters = text.split('"').nth(1).unwrap_or_default();
        let first = &letters[..letters.len().min(1)];
        assert!(
            matches!((first, letters.len()), ("a", 90000) | ("b", 5) | ("c", 20000))
                && letters.chars().all(|letter| first.starts_with(letter))
                && text.ends_with("\";"),
            "a torn record of {} bytes: {}...",
            bytes.len(),
            &text[..text.len().min(40)]
        );
        seen.insert(first.to_owned());
    }
    assert!(seen.len() > 1, "the reader saw one state only: {seen:?}");
    assert!(writers.iter().all(|writer| writer.running()));
}

fn the_inode_of_a_session_never_changes() {
    let place = place();
    let mut store = place.store();
    put(store.as_mut(), &id("abc"), b"n|i:1;");
    let inode = fs::metadata(place.file("abc")).unwrap().ino();
    for length in [0, 1, 5000, 7, 1_000_000, 0] {
        put(store.as_mut(), &id("abc"), &vec![b'x'; length]);
        let stat = fs::metadata(place.file("abc")).unwrap();
        assert_eq!((stat.ino(), stat.len()), (inode, length as u64));
    }
}

fn a_waiter_that_wins_late_lets_go() {
    let place = place();
    let mut holder = place.store();
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let mut late = place.store();
    give_up(late.as_mut(), &place.file("abc"));
    holder.commit(&id("abc"), hold, Change::Keep, soon()).unwrap();
    // Hangs for good if the late winner keeps what it won.
    lock(place.store().as_mut(), &id("abc"));
    lock(late.as_mut(), &id("abc"));
}

fn a_worker_stands_in_a_queue_once() {
    let place = place();
    let mut holder = place.store();
    let (_, hold) = lock(holder.as_mut(), &id("abc"));
    let mut late = place.store();
    for _ in 0..5 {
        give_up(late.as_mut(), &place.file("abc"));
    }
    std::thread::scope(|scope| {
        let again = scope.spawn(|| increment(late.as_mut(), &id("abc"), EXCLUSIVE));
        holder.commit(&id("abc"), hold, Change::Write(b"n|i:7;", LIFETIME), soon()).unwrap();
        assert_eq!(again.join().unwrap().unwrap(), 8);
    });
}

/// Readers wait for a record that may be half written, and stay in the kernel's queue when they have their answer.
fn who_reads_without_the_lock_is_no_waiter() {
    let place = place();
    let (mut holder, mut reader) = (place.store(), place.store());
    let (_, _hold) = lock(holder.as_mut(), &id("abc"));
    let mut reads = 0;
    wait_until("readers are left in the queue", LIMIT, || {
        // As if it had been written just now.
        File::open(place.file("abc")).unwrap().set_modified(SystemTime::now()).unwrap();
        assert_eq!(read(reader.as_mut(), &id("abc")).unwrap(), b"");
        reads += 1;
        waiters(&place.file("abc")) > 0 && reads > 1
    });
    assert_eq!(reader.peek(&id("abc"), soon()).unwrap().lock.unwrap().waiting, Some(0));
    let settings = Settings { max_waiters: NonZeroU32::new(1), ..Settings::default() };
    let at_once = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Lock };
    let error = store_with(&place.save_path, settings).open(&id("abc"), at_once, soon()).unwrap_err();
    assert!(!error.to_string().contains("wait for this session already"), "{error}");
}

fn a_write_after_a_foreign_sweep_is_not_lost() {
    let place = place();
    let mut store = place.store();
    for touched in [false, true] {
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        let (_, hold) = lock(store.as_mut(), &id("abc"));
        // PHP's own gc looks at the time only, not at locks.
        fs::remove_file(place.file("abc")).unwrap();
        let (change, expected) = match touched {
            true => (Change::Touch(b"n|i:1;", LIFETIME), Committed::Rewritten),
            false => (Change::Write(b"n|i:1;", LIFETIME), Committed::Done),
        };
        assert_eq!(store.commit(&id("abc"), hold, change, soon()).unwrap(), expected);
        assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:1;");
        lock(place.store().as_mut(), &id("abc"));
    }
}

fn a_write_gives_way_to_a_session_begun_anew() {
    let place = place();
    let (mut old, mut new) = (place.store(), place.store());
    put(old.as_mut(), &id("abc"), b"n|i:1;");
    let (_, hold) = lock(old.as_mut(), &id("abc"));
    fs::remove_file(place.file("abc")).unwrap();
    put(new.as_mut(), &id("abc"), b"n|i:100;");
    let error = old.commit(&id("abc"), hold, Change::Write(b"n|i:2;", LIFETIME), soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LockLost, "{error}");
    assert_eq!(old.counters().lost_leases, 1);
    assert_eq!(read(new.as_mut(), &id("abc")).unwrap(), b"n|i:100;");
}

fn an_empty_file_is_an_empty_session() {
    let place = place();
    File::create(place.file("abc")).unwrap();
    let mut store = place.store();
    assert!(store.exists(&id("abc"), soon()).unwrap());
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    let opened = store.open(&id("abc"), refuse, soon()).unwrap();
    assert_eq!(opened.record, Some(Record(Vec::new())));
    assert!(matches!(opened.hold, Hold::Lease(_)));
}

fn an_expired_record_is_not_served() {
    let place = place();
    let settings = Settings { lifetime: Duration::from_secs(1000), ..Settings::default() };
    let mut store = store_with(&place.save_path, settings);
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    let mut served = |seconds: u64| {
        put(store.as_mut(), &id("abc"), b"n|i:1;");
        age(&place.file("abc"), Duration::from_secs(seconds));
        let mut listed = 0;
        store
            .list(
                &mut |_| {
                    listed += 1;
                    true
                },
                soon(),
            )
            .unwrap();
        let unlocked =
            [store.exists(&id("abc"), soon()).unwrap(), read(store.as_mut(), &id("abc")).is_some()];
        let known = store.open(&id("abc"), refuse, soon()).unwrap().record.is_some();
        [unlocked[0], unlocked[1], known, lock(store.as_mut(), &id("abc")).0.is_some(), listed == 1]
    };
    // On a busy machine it grows older before it is looked at.
    assert_eq!(served(900), [true; 5]);
    assert_eq!(served(1002), [false; 5]);
    // Refusing it left no lock behind, and touching what was not served writes it.
    let (_, hold) = lock(store.as_mut(), &id("abc"));
    let touched = store.commit(&id("abc"), hold, Change::Touch(b"n|i:2;", LIFETIME), soon()).unwrap();
    assert_eq!(touched, Committed::Rewritten);
    assert_eq!(read(store.as_mut(), &id("abc")).unwrap(), b"n|i:2;");
}

fn a_symbolic_link_is_not_followed() {
    let place = place();
    let victim = place.directory.write("victim", "n|i:1;");
    std::os::unix::fs::symlink(&victim, place.file("abc")).unwrap();
    std::os::unix::fs::symlink(place.directory.join("nothing"), place.file("dangling")).unwrap();
    let mut store = place.store();
    for session in ["abc", "dangling"] {
        for access in [Access::ReadOnly, Access::Unlocked, EXCLUSIVE] {
            let error = store.open(&id(session), access, soon()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        }
        let hold = Hold::Unlocked(Seen::of(None));
        let error = store.commit(&id(session), hold, Change::Write(b"x", LIFETIME), soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
        assert!(!store.exists(&id(session), soon()).unwrap());
    }
    assert_eq!(fs::read(victim).unwrap(), b"n|i:1;");
    assert!(!place.directory.join("nothing").exists());
}

fn a_fifo_is_refused_and_does_not_hang() {
    let place = place();
    let made = std::process::Command::new("mkfifo").arg(place.file("abc")).status().unwrap();
    assert!(made.success());
    for access in [Access::ReadOnly, EXCLUSIVE] {
        let error = place.store().open(&id("abc"), access, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    }
}

fn a_missing_directory_is_an_error_not_a_new_session() {
    let place = place();
    let mut store = store(&format!("{}/unmounted", place.save_path));
    let refuse = Access::Exclusive { wait: Duration::ZERO, unknown: Unknown::Refuse };
    for error in [
        store.exists(&id("abc"), soon()).unwrap_err(),
        store.open(&id("abc"), Access::ReadOnly, soon()).unwrap_err(),
        store.open(&id("abc"), refuse, soon()).unwrap_err(),
        store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err(),
    ] {
        let expected = format!(
            "cannot use the session directory: No such file or directory (os error 2) (store {}/unmounted)\n\
             hint: make the directory, all levels of it, and let PHP's user write to it",
            place.save_path
        );
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, expected));
    }
    // Of a level, only the new session is refused: an id that a visitor made up is unknown.
    let mut store = worker::store(&format!("1;{}", place.save_path));
    assert!(!store.exists(&id("abc"), soon()).unwrap());
    assert_eq!(store.open(&id("abc"), refuse, soon()).unwrap().record, None);
    let error = store.open(&id("abc"), EXCLUSIVE, soon()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

fn a_sweep_goes_on_where_it_stopped_and_spares_the_locked() {
    let place = place();
    let save_path = format!("1;{}", place.save_path);
    let mut sweeper = store(&save_path);
    let ids: Vec<String> = (0..60).map(|number| format!("{}{number}", ["a", "b", "c"][number % 3])).collect();
    for level in ["a", "b", "c"] {
        fs::create_dir(place.directory.join(level)).unwrap();
    }
    let file = |session: &str| place.directory.join(format!("{}/sess_{session}", &session[..1]));
    for session in &ids {
        put(sweeper.as_mut(), &id(session), b"n|i:1;");
        age(&file(session), Duration::from_secs(1000));
    }
    // What is no session of this store stays, however old.
    for other in ["a/note", "sess_a1", "b/sess_a999", "a/sess_under_score"] {
        age(&place.directory.write(other, ""), Duration::from_secs(1000));
    }
    age(&file("a0"), Duration::from_secs(10));
    let mut holder = store(&save_path);
    let (_, hold) = lock(holder.as_mut(), &id("b1"));
    let mut removed = 0;
    let mut slices = 0;
    wait_until("the sweep comes to its end", LIMIT, || {
        slices += 1;
        removed +=
            sweeper.sweep(Duration::from_secs(100), Deadline::after(Duration::from_micros(200))).unwrap();
        removed == 58
    });
    assert!(slices > 1, "one slice of 200 microseconds swept everything");
    holder.commit(&id("b1"), hold, Change::Keep, soon()).unwrap();
    let mut left = Vec::new();
    sweeper
        .list(
            &mut |id| {
                left.push(id.as_str().to_owned());
                true
            },
            soon(),
        )
        .unwrap();
    left.sort();
    assert_eq!(left, ["a0", "b1"]);
    for other in ["a/note", "sess_a1", "b/sess_a999", "a/sess_under_score"] {
        assert!(place.directory.join(other).exists(), "{other}");
    }
}

fn a_foreign_file_is_refused() {
    let place = place();
    fs::set_permissions(place.directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let trap = place.directory.write("sess_abc", "user|s:5:\"alice\";");
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o666)).unwrap();
    std::os::unix::fs::chown(&trap, Some(12345), None).unwrap();
    // Where this program lies, another user may not be let in.
    let program = place.directory.join("worker");
    // Not by this process: another thread's child that has the file open for writing keeps it from being run.
    let copied = std::process::Command::new("cp").arg(worker::program()).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command.args(["--worker", "write", &place.save_path, "abc", "7"]);
    let worker = start(&mut command, place.directory.path());
    worker.wait(LIMIT);
    let expected = format!(
        "Auth: the session file belongs to user 12345, and PHP runs as user 65534 (store {})\n\
         hint: give each application a directory of its own, or chown the files\n",
        place.save_path
    );
    assert_eq!(worker.stdout(), expected, "{}", worker.stderr());
    assert_eq!(fs::read(&trap).unwrap(), b"user|s:5:\"alice\";");
}

fn a_full_disk_loses_nothing() {
    let place = place();
    let script = format!(
        "mount -t tmpfs -o size=64k none {0} && cd {0} || exit
        '{1}' --worker write {0} abc 3000
        dd if=/dev/zero of=filler bs=4k count=14 status=none
        '{1}' --worker write {0} abc 30000
        wc -c < sess_abc; tr -d x < sess_abc | wc -c
        rm filler
        '{1}' --worker write {0} abc 30000
        wc -c < sess_abc",
        place.save_path,
        worker::program().display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let logs = TempDir::new();
    let shell = start(&mut command, logs.path());
    shell.wait(LIMIT);
    let expected = format!(
        "written\n\
         Full: cannot write the session file: No space left on device (os error 28) (store {})\n\
         hint: make room, or let expired sessions be removed (session_gc())\n\
         3000\n0\nwritten\n30000\n",
        place.save_path
    );
    assert_eq!(shell.stdout(), expected, "{}", shell.stderr());
}

/// Waits in vain for the lock of `abc`, and leaves one waiter behind.
#[track_caller]
fn give_up(store: &mut dyn Store, path: &Path) {
    let briefly = Access::Exclusive { wait: Duration::from_millis(50), unknown: Unknown::Lock };
    // Never twice; but the kernel shows its list page by page, and a waiter twice where others come and go meanwhile.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        // On a busy machine the time can be up before the worker stands in the queue.
        let error = store.open(&id("abc"), briefly, soon()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LockBusy, "{error}");
        if waiters(path) == 1 {
            return;
        }
        let locks = fs::read_to_string("/proc/locks").unwrap();
        assert!(Instant::now() < end, "not one waits for {}: {locks}", fs::metadata(path).unwrap().ino());
    }
}

/// How many wait for the lock of this file.
fn waiters(path: &Path) -> usize {
    let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("->") && line.contains(&inode)).count()
}

#[track_caller]
fn wait_for_waiters(path: &Path, count: usize) {
    wait_until("somebody waits for the lock", LIMIT, || waiters(path) == count);
}
