//! PHP on this machine: where it is, and scripts run with it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::TempDir;
use crate::process::{Process, ended};

/// How long a script may run. No case needs a fraction of it.
const LIMIT: Duration = Duration::from_secs(60);

/// A script and how to run it: always without the machine's php.ini, every error on stderr, assertions throwing.
#[derive(Debug, Clone)]
#[must_use]
pub struct Script {
    code: String,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    wrapper: Vec<String>,
    limit: Duration,
}

impl Script {
    /// A script; `<?php` may be left out.
    pub fn new(code: impl Into<String>) -> Script {
        let code = code.into();
        let code = if code.trim_start().starts_with("<?php") { code } else { format!("<?php\n{code}") };
        Script { code, arguments: Vec::new(), env: Vec::new(), wrapper: Vec::new(), limit: LIMIT }
            .ini("display_errors", "stderr")
            .ini("html_errors", "0")
            .ini("error_reporting", "-1")
            .ini("zend.assertions", "1")
    }

    /// Loads our extension.
    pub fn cloakroom(self) -> Script {
        let path = extension();
        self.ini("extension", path.display())
    }

    /// Loads a module that comes with PHP's packages (`redis.so`); those that it needs come first.
    pub fn module(self, name: &str) -> Script {
        self.ini("extension", name)
    }

    /// Sets a php.ini directive.
    pub fn ini(mut self, name: &str, value: impl ToString) -> Script {
        self.arguments.extend(["-d".to_owned(), ini_line(name, &value.to_string())]);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Script {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs PHP by way of another program (`unshare -m`, `taskset -c 0`).
    pub fn through(mut self, words: &[&str]) -> Script {
        self.wrapper = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Lets the script run longer than a minute.
    pub fn limit(mut self, limit: Duration) -> Script {
        self.limit = limit;
        self
    }

    /// Runs the script to its end.
    #[track_caller]
    pub fn run(self) -> Ran {
        self.spawn().finish()
    }

    /// Starts the script; [`Process::say`] writes to its `STDIN`.
    #[track_caller]
    pub fn spawn(self) -> Running {
        let limit = self.limit;
        let (mut command, directory) = self.command();
        let process = Process::start(&mut command, directory.path(), "php");
        Running { process, limit, _directory: directory }
    }

    /// The command that runs the script, and the directory that the script is in for as long as it is kept: for
    /// callers who talk to it over pipes of their own.
    #[track_caller]
    pub fn command(self) -> (Command, TempDir) {
        let directory = TempDir::new();
        let file = directory.write("script.php", &self.code);
        let program = crate::need::find("php").expect("php is installed");
        let mut command = match self.wrapper.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.arg("-n").args(&self.arguments).arg(file).envs(self.env);
        (command, directory)
    }
}

/// A script that runs; dropping it kills it. What [`Process`] can, it can.
#[derive(Debug)]
pub struct Running {
    process: Process,
    limit: Duration,
    // After the process: dropped in this order.
    _directory: TempDir,
}

impl Running {
    /// Waits for its end.
    #[track_caller]
    pub fn finish(self) -> Ran {
        let status = self.process.wait(self.limit);
        Ran { stdout: self.process.stdout(), stderr: self.process.stderr(), status }
    }

    /// Waits until it has printed `text`, for as long as it may run.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        crate::wait_until(&format!("the script prints {text:?}"), self.limit, || {
            let printed = self.stdout().contains(text);
            assert!(printed || self.running(), "the script ended before it printed {text:?}\n{}", self.log());
            printed
        });
    }
}

impl std::ops::Deref for Running {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// What a script did.
#[derive(Debug, Clone)]
pub struct Ran {
    /// What it printed.
    pub stdout: String,
    /// Its warnings and errors.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
}

impl Ran {
    /// What it printed, after it ended well and without a warning.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success() && self.stderr.is_empty(), "{self}");
        self.stdout
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ran { stdout, stderr, status } = self;
        write!(f, "php ended with {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", ended(*status))
    }
}

/// `name=value` for `-d` and for a pool's `php_value`: PHP's ini parser takes all but `'` as it is in single quotes.
pub(crate) fn ini_line(name: &str, value: &str) -> String {
    match value.contains('\'') {
        false => format!("{name}='{value}'"),
        true => {
            format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$"))
        }
    }
}

/// Our extension: `CLOAKROOM_SO`, or else built once by this process.
#[track_caller]
pub fn extension() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| match std::env::var_os("CLOAKROOM_SO") {
            Some(path) => {
                let path = std::path::absolute(PathBuf::from(path)).unwrap();
                assert!(path.is_file(), "CLOAKROOM_SO: {} is not a file", path.display());
                path
            }
            None => build(),
        })
        .clone()
}

static BUILT_HERE: AtomicBool = AtomicBool::new(false);

/// Whether this process builds the extension, or has built it.
#[cfg(feature = "suite")]
pub(crate) fn built_here() -> bool {
    BUILT_HERE.load(Ordering::SeqCst)
}

fn build() -> PathBuf {
    BUILT_HERE.store(true, Ordering::SeqCst);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--package",
            "cloakroom-php",
            "--message-format",
            "json-render-diagnostics",
        ])
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .expect("start cargo");
    assert!(built.status.success(), "cargo build --package cloakroom-php failed");
    let messages = String::from_utf8_lossy(&built.stdout).into_owned();
    let path = messages.split('"').rfind(|word| word.ends_with("/libcloakroom_php.so"));
    path.map(PathBuf::from).expect("cargo names the library it built")
}

/// Where `tools/phpredis6` puts phpredis 6, which Debian 12 does not have.
pub fn phpredis6() -> PathBuf {
    workspace().join("target/phpredis6/redis.so")
}

/// The root of this workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/testbed is two below")
}

/// The directory of PHP's extensions.
pub fn extension_dir() -> Option<&'static PathBuf> {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIRECTORY
        .get_or_init(|| {
            let output = Command::new("php").args(["-n", "-r", "echo PHP_EXTENSION_DIR;"]).output().ok()?;
            Some(PathBuf::from(String::from_utf8(output.stdout).ok()?))
        })
        .as_ref()
}

/// The PHP-FPM program, under whichever version's name.
pub fn fpm_program() -> Option<PathBuf> {
    let named = |name: &str| crate::need::find(name);
    let version = ["8.5", "8.4", "8.3", "8.2", "8.1"].iter();
    named("php-fpm").or_else(|| version.clone().find_map(|version| named(&format!("php-fpm{version}"))))
}
