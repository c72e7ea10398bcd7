//! A system in a temporary directory: the files that PHP reads, and what the doctor says of them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::User;
use testbed::TempDir;

pub(crate) struct Tree {
    root: TempDir,
}

/// A finding as it is printed: its gravity, its name, what is so, and the line to change.
#[derive(Clone)]
pub(crate) struct Expected(&'static str, &'static str, String, String);

pub(crate) fn problem(name: &'static str, what: impl Into<String>, change: impl Into<String>) -> Expected {
    Expected("problem", name, what.into(), change.into())
}

pub(crate) fn note(name: &'static str, what: impl Into<String>, change: impl Into<String>) -> Expected {
    Expected("note", name, what.into(), change.into())
}

/// That of every FPM and Apache that keeps sessions in the tree's directory.
pub(crate) fn local() -> Expected {
    note(
        "on-this-host",
        "/var/sessions is on this host alone",
        "session.save_path = \"redis://...\", or a directory on NFS, once there is a second server",
    )
}

/// What was looked at where sessions are in the tree's directory.
pub(crate) const DIRECTORY: &str = "/var/sessions: round trip p50 N ms, p99 N ms";

pub(crate) const FPM: &str = "FPM 8.2, pool www";

impl Tree {
    /// Nothing but PHP's modules and a directory for sessions.
    pub(crate) fn new() -> Tree {
        let tree = Tree { root: TempDir::new() };
        tree.write("usr/lib/php/20220829/cloakroom.so", "");
        tree.write("usr/lib/php/20220829/redis.so", "");
        let sessions = tree.path("var/sessions");
        std::fs::create_dir_all(&sessions).unwrap();
        std::fs::set_permissions(&sessions, PermissionsExt::from_mode(0o700)).unwrap();
        tree.give("var/sessions", &user());
        tree
    }

    /// Debian's CLI.
    pub(crate) fn cli() -> Tree {
        let tree = Tree::new();
        tree.write("etc/php/8.2/cli/php.ini", PHP_INI);
        tree.write("etc/php/8.2/cli/conf.d/20-cloakroom.ini", CLOAKROOM_INI);
        tree
    }

    /// Debian's PHP-FPM with one pool.
    pub(crate) fn fpm() -> Tree {
        let tree = Tree::new();
        tree.write("etc/php/8.2/fpm/php.ini", PHP_INI);
        tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", CLOAKROOM_INI);
        tree.write("etc/php/8.2/fpm/php-fpm.conf", "[global]\ninclude=/etc/php/8.2/fpm/pool.d/*.conf\n");
        tree.pool("");
        tree
    }

    /// Red Hat's Apache with mod_php, and the CLI that has the same files.
    pub(crate) fn apache() -> Tree {
        let tree = Tree::new();
        tree.write("etc/php.ini", PHP_INI);
        tree.write("etc/php.d/20-cloakroom.ini", CLOAKROOM_INI);
        tree.write("etc/httpd/conf/httpd.conf", format!("User {}\nIncludeOptional conf.d/*.conf\n", user()));
        tree.write("etc/httpd/conf.modules.d/15-php.conf", "LoadModule php_module modules/libphp.so\n");
        tree
    }

    /// Writes the pool with these lines at its end: their numbers begin with 5.
    pub(crate) fn pool(&self, lines: &str) {
        let user = user();
        let text = format!("[www]\nuser = {user}\nlisten = /run/php.sock\npm = static\n{lines}");
        self.write("etc/php/8.2/fpm/pool.d/www.conf", text);
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Changes the owner, where that is allowed.
    pub(crate) fn give(&self, name: &str, user: &str) {
        if nix::unistd::geteuid().is_root() {
            let user = User::from_name(user).unwrap().unwrap();
            chown(self.path(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
    }

    /// The doctor's command for this tree.
    pub(crate) fn doctor(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
        command.args(["doctor", "--root"]).arg(self.root());
        command
    }

    /// The whole output is this.
    #[track_caller]
    pub(crate) fn finds(&self, arguments: &[&str], looked_at: &[&str], findings: &[Expected]) {
        self.says(self.doctor().args(arguments), looked_at, findings);
    }

    /// The whole output of this command is this.
    #[track_caller]
    pub(crate) fn says(&self, command: &mut Command, looked_at: &[&str], findings: &[Expected]) {
        let Output { stdout, stderr, status } = command.output().unwrap();
        let seen = String::from_utf8(stdout).unwrap().replace(&self.root().display().to_string(), "ROOT");
        let stderr = String::from_utf8(stderr).unwrap();
        let silent = is_progress(&stderr);
        let (seen, slow) = without_slow(&masked(&seen));
        let seen = format!("{seen}exit code {:?}\n", status.code());
        let mut expected: String = looked_at.iter().map(|it| format!("looked at {it}\n")).collect();
        for Expected(gravity, name, what, change) in findings {
            let change = change.replace('\n', "\n          ");
            let why = why(name);
            expected += &format!("\n{gravity}: {what} [{name}]\n  why:    {why}\n  change: {change}\n");
        }
        let problems = slow + findings.iter().filter(|it| it.0 == "problem").count();
        expected += &match problems {
            0 => "\nok: no problem found\nexit code Some(0)\n".to_owned(),
            1 => "\n1 problem found\nexit code Some(1)\n".to_owned(),
            _ => format!("\n{problems} problems found\nexit code Some(1)\n"),
        };
        let expected = expected.replace(&self.root().display().to_string(), "ROOT");
        assert!(seen == expected && silent, "--- expected\n{expected}--- seen\n{seen}--- stderr\n{stderr}");
    }
}

/// Whom the workers run as.
pub(crate) fn user() -> String {
    match nix::unistd::geteuid() {
        uid if uid.is_root() => "nobody".to_owned(),
        uid => User::from_uid(uid).unwrap().unwrap().name,
    }
}

/// As docs/doctor.md says it.
fn why(name: &str) -> String {
    let book = include_str!("../../../../docs/doctor.md");
    let row = book.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | ")));
    row.and_then(|row| row.strip_suffix(" |"))
        .unwrap_or_else(|| panic!("{name} is not in the book"))
        .to_owned()
}

/// Nothing but what is told where something takes long: on a machine with much to do any step may.
pub(crate) fn is_progress(stderr: &str) -> bool {
    stderr.lines().all(|line| line.ends_with(" ..."))
}

/// Without the finding that a store is slow, and how often it was there: on such a machine any store may be.
fn without_slow(text: &str) -> (String, usize) {
    let blocks = text.split("\n\n");
    let (slow, others): (Vec<&str>, Vec<&str>) =
        blocks.partition(|block| block.lines().next().is_some_and(|line| line.ends_with(" [slow]")));
    (others.join("\n\n"), slow.len())
}

/// Times become `N ms`.
fn masked(text: &str) -> String {
    let line = |line: &str| match line.split_once(": round trip p50 ") {
        Some((store, times)) => {
            let after = times.splitn(3, " ms").nth(2).unwrap_or_default();
            format!("{store}: round trip p50 N ms, p99 N ms{after}\n")
        }
        // Which script it was, and where in it.
        None => match line
            .split_once(" script: ")
            .and_then(|(before, rest)| Some((before, rest.split_once(" (store ")?.1)))
        {
            Some((before, after)) => format!("{before} SCRIPT (store {after}\n"),
            None => format!("{line}\n"),
        },
    };
    text.lines().map(line).collect()
}

/// FPM's file of conf.d, as findings name it.
pub(crate) const INI: &str = "ROOT/etc/php/8.2/fpm/conf.d/20-cloakroom.ini";

pub(crate) const PHP_INI: &str = "[PHP]
error_reporting = E_ALL & ~E_DEPRECATED & ~E_STRICT
[Session]
session.save_handler = files
session.name = PHPSESSID
session.gc_probability = 1
session.serialize_handler = php
";

pub(crate) const CLOAKROOM_INI: &str = "; the store
extension = cloakroom
session.save_handler = cloakroom
session.save_path = \"/var/sessions\"
";

/// FPM's file of conf.d with this text, and what is found; nothing is told of the store.
#[track_caller]
pub(crate) fn scanned(text: &str, findings: Vec<Expected>) {
    let tree = Tree::fpm();
    tree.write("etc/php/8.2/fpm/conf.d/20-cloakroom.ini", text);
    tree.finds(&[], &[FPM, DIRECTORY], &[findings, vec![local()]].concat());
}
