//! A child process that never outlives the test.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::watchdog::{News, tell};

/// A child in a process group of its own. Dropping it kills the group; when we die first, whatever kills us, a
/// watchdog does.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    started: String,
    child: Mutex<Child>,
    /// Whether it was killed and waited for: its number may be another's since.
    gone: AtomicBool,
    input: Mutex<Option<ChildStdin>>,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `NAME.out` and `NAME.err` in `directory`.
    #[track_caller]
    pub fn start(command: &mut Command, directory: &Path, name: &str) -> Process {
        let out = directory.join(format!("{name}.out"));
        let err = directory.join(format!("{name}.err"));
        let log = |path: &Path| {
            File::options().create(true).append(true).open(path).unwrap_or_else(|error| panic!("{error}"))
        };
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log(&out))
            .stderr(log(&err))
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let pid = child.id().cast_signed();
        let started = start_time(pid);
        tell(&News::Started(pid, &started));
        Process {
            name: name.to_owned(),
            pid: Pid::from_raw(pid),
            started,
            input: Mutex::new(child.stdin.take()),
            child: Mutex::new(child),
            gone: AtomicBool::new(false),
            out,
            err,
        }
    }

    /// Its process id, which is its group's too.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it still runs.
    pub fn running(&self) -> bool {
        self.status().is_none()
    }

    /// How it ended, if it has. It is not reaped before it is killed: until then its number stays its own.
    fn status(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap();
        if self.gone.load(Ordering::SeqCst) {
            return child.try_wait().unwrap();
        }
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid), peek).unwrap() {
            WaitStatus::Exited(_, code) => Some(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(_, signal, _) => Some(ExitStatus::from_raw(signal as i32)),
            _ => None,
        }
    }

    /// Waits for its end; panics when it still runs after `limit`.
    #[track_caller]
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(Instant::now() < end, "{} still runs after {limit:?}\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    pub fn terminate(&self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(Duration::from_secs(30))
    }

    /// Asks it to end, and kills it when it has not after a second.
    pub(crate) fn end(&self) {
        self.signal(Signal::SIGTERM);
        let end = Instant::now() + Duration::from_secs(1);
        while self.running() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.kill();
    }

    /// Kills it and its group (SIGKILL), and waits until it is gone.
    pub fn kill(&self) -> ExitStatus {
        let mut child = self.child.lock().unwrap();
        if self.gone.load(Ordering::SeqCst) {
            return child.wait().unwrap();
        }
        // A group outlives its leader: the workers of a master that ended by itself are in it.
        let _ = killpg(self.pid, Signal::SIGKILL);
        let status = child.wait().unwrap();
        self.gone.store(true, Ordering::SeqCst);
        tell(&News::Reaped(self.pid(), &self.started));
        status
    }

    /// Sends one signal to the process alone, unless it was killed.
    pub fn signal(&self, signal: Signal) {
        let _child = self.child.lock().unwrap();
        if !self.gone.load(Ordering::SeqCst) {
            kill(self.pid, signal).unwrap();
        }
    }

    /// Stops the whole group where it is (SIGSTOP), and waits until every thread of its leader has.
    pub fn freeze(&self) {
        self.signal_group(Signal::SIGSTOP);
        // A busy thread goes on until its processor hears of the signal.
        let stopped = |status: String| status.contains("\nState:\tT");
        let tasks = format!("/proc/{}/task", self.pid);
        crate::wait_until("the process stops", crate::START, || {
            let threads = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            let mut states = threads.map(|thread| std::fs::read_to_string(thread.path().join("status")));
            states.all(|status| status.map_or(true, stopped))
        });
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal_group(Signal::SIGCONT);
    }

    fn signal_group(&self, signal: Signal) {
        let _child = self.child.lock().unwrap();
        if !self.gone.load(Ordering::SeqCst) {
            killpg(self.pid, signal).unwrap();
        }
    }

    /// Writes a line to its standard input.
    pub fn say(&self, line: &str) {
        let mut input = self.input.lock().unwrap();
        writeln!(input.as_mut().expect("standard input is closed"), "{line}").unwrap();
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    /// What it has complained of so far.
    pub fn stderr(&self) -> String {
        read(&self.err)
    }

    /// Both, for a person to read.
    pub fn log(&self) -> String {
        format!("--- {} stdout\n{}--- {} stderr\n{}", self.name, self.stdout(), self.name, self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// How a process ended, for a message.
pub(crate) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "an unknown end".into(),
    }
}

/// When a process started, as the kernel counts: with its number, this names it for good.
pub(crate) fn start_time(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    after_name.split(' ').nth(19).unwrap_or_default().to_owned()
}
