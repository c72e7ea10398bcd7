//! A child process that never outlives the test.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// A child in a process group of its own. Dropping it kills the group; when we die first, whatever kills us, a
/// watchdog does.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    killed: AtomicBool,
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
        watchdog(&format!("+ {}", child.id()));
        Process {
            name: name.to_owned(),
            pid: Pid::from_raw(child.id().cast_signed()),
            input: Mutex::new(child.stdin.take()),
            child: Mutex::new(child),
            killed: AtomicBool::new(false),
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
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// Waits for its end; panics when it still runs after `limit`.
    #[track_caller]
    pub fn wait(&self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
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
        // A group outlives its leader: the workers of a master that ended by itself are in it. But once it was
        // killed, its number may be another's.
        if !self.killed.swap(true, Ordering::Relaxed) {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        let status = child.wait().unwrap();
        watchdog(&format!("- {}", self.pid));
        status
    }

    /// Sends one signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child.lock().unwrap();
        // Once it is reaped its pid may be another's.
        if child.try_wait().unwrap().is_none() {
            kill(self.pid, signal).unwrap();
        }
    }

    /// Stops the whole group where it is (SIGSTOP).
    pub fn freeze(&self) {
        killpg(self.pid, Signal::SIGSTOP).unwrap();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        killpg(self.pid, Signal::SIGCONT).unwrap();
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

/// Has the directory removed when this process dies without doing it.
pub(crate) fn remove_at_death(directory: &Path) {
    watchdog(&format!("d {}", directory.display()));
}

/// Takes that back.
pub(crate) fn removed(directory: &Path) {
    watchdog(&format!("u {}", directory.display()));
}

/// Tells the watchdog, a shell that outlives us by a moment: it reads what to clean up from a pipe, and does it
/// when the pipe closes. That covers SIGKILL, Ctrl-C, aborts and statics, which are never dropped.
#[allow(clippy::zombie_processes, reason = "it outlives this process, and init waits for it")]
fn watchdog(line: &str) {
    // Kept as `+ pid` / `d path` lines; a `-` or `u` line strikes one out.
    const SCRIPT: &str = r#"
        trap '' HUP INT TERM
        pids=' ' paths='
'
        while read -r what which; do
            case $what in
                +) pids="$pids$which " ;;
                -) pids="${pids%% $which *} ${pids#* $which }" ;;
                d) paths="$paths$which
" ;;
                u) paths="${paths%%
$which
*}
${paths#*
$which
}" ;;
            esac
        done
        for pid in $pids; do kill -KILL -"$pid"; done
        printf %s "$paths" | while read -r path; do case $path in */cloakroom-*) rm -rf "$path" ;; esac; done
    "#;
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start sh");
        Mutex::new(shell.stdin.take().expect("it was piped"))
    });
    // Without its watchdog a test still stops what it drops.
    let _ = writeln!(pipe.lock().unwrap(), "{line}");
}
