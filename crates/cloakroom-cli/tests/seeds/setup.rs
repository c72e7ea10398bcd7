//! Three servers on a platform, and a visitor of them.

use std::process::Command;

use testbed::TempDir;
use testbed::fleet::{Fleet, Plan};
use testbed::http::Browser;
use testbed::php;

/// What the platform tells, and how PHP is started there.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) environment: Vec<(&'static str, String)>,
    /// What is given to `cloakroom ini`, where the platform tells nothing.
    pub(crate) save_path: Option<String>,
    /// A name that leads to this machine.
    pub(crate) host: Option<&'static str>,
}

/// The extension whose handler keeps the sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handler {
    Cloakroom,
    Phpredis,
    /// Whose `stream[...]` counts.
    Phpredis6,
    PhpMemcached,
}

/// How the settings reach PHP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    PhpIni,
    /// Beside the scripts.
    UserIni,
}

const PAGE: &str = "<?php
if (!session_start()) { exit('no session'); }
$_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
if (isset($_GET['pause'])) { usleep(5000); }
session_write_close();
echo 'Hello #', $_SESSION['count'], ' from ', getenv('BACKEND'), ' by ', ini_get('session.save_handler');
";

impl Setup {
    pub(crate) fn of(environment: &[(&'static str, &str)]) -> Setup {
        let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Setup { environment, ..Setup::default() }
    }

    pub(crate) fn given(save_path: impl Into<String>) -> Setup {
        Setup { save_path: Some(save_path.into()), ..Setup::default() }
    }

    /// Runs `cloakroom ini` there, twice, as two starts do; answers what it wrote.
    #[track_caller]
    pub(crate) fn ini(&self, handler: Handler, format: &str, out: &std::path::Path) -> String {
        let handler = match handler {
            Handler::Cloakroom => "cloakroom",
            Handler::Phpredis | Handler::Phpredis6 => "phpredis",
            Handler::PhpMemcached => "php-memcached",
        };
        let mut written = String::new();
        for _ in 0..2 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
            command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
            command
                .arg("ini")
                .args(&self.save_path)
                .args(["--for", handler, "--format", format, "--out"])
                .arg(out);
            let ran = command.output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            let text = std::fs::read_to_string(out).unwrap();
            assert!(written.is_empty() || written == text, "the second run changed {written} to {text}");
            written = text;
        }
        written
    }

    /// Starts three servers of this handler, with what `cloakroom ini` wrote.
    pub(crate) fn start(
        &self,
        handler: Handler,
        reach: Reach,
        configure: impl FnOnce(Plan) -> Plan,
    ) -> Servers {
        let root = TempDir::new();
        root.write("index.php", PAGE);
        let configuration = TempDir::new();
        let plan = match reach {
            Reach::PhpIni => {
                let out = configuration.join("php.ini");
                self.ini(handler, "php.ini", &out);
                Plan::serving(root.path()).php_ini(out)
            }
            Reach::UserIni => {
                self.ini(handler, "user.ini", &root.join(".user.ini"));
                Plan::serving(root.path())
            }
        };
        // Workers see nothing of the platform; a native handler need not.
        let mut plan = modules(handler).iter().fold(plan, |plan, module| plan.module(module)).clear_env();
        for (name, value) in &self.environment {
            plan = plan.masters_env(name, value);
        }
        if let Some(host) = self.host {
            let hosts = configuration.write("hosts", format!("127.0.0.1 localhost {host}\n"));
            let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
            plan = plan.through(&["unshare", "-m", "sh", "-c", &mount, "sh"]);
        }
        Servers { fleet: configure(plan).start(), _configuration: configuration }
    }

    /// A visitor's counter goes up over three servers, by this handler.
    #[track_caller]
    pub(crate) fn counts(&self, handler: Handler, reach: Reach, shown: &str) {
        let servers = self.start(handler, reach, |plan| plan);
        servers.count(&[1, 2, 3, 4, 5, 6], shown);
    }
}

/// What `php.ini` needs before phpredis and php-memcached, as Debian has them.
fn modules(handler: Handler) -> Vec<String> {
    let named = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    match handler {
        Handler::Cloakroom => vec![php::extension().display().to_string()],
        Handler::Phpredis => named(&["igbinary.so", "redis.so"]),
        Handler::Phpredis6 => vec!["igbinary.so".into(), php::phpredis6().display().to_string()],
        Handler::PhpMemcached => named(&["igbinary.so", "msgpack.so", "memcached.so"]),
    }
}

pub(crate) struct Servers {
    pub(crate) fleet: Fleet,
    _configuration: TempDir,
}

impl Servers {
    /// The numbers that one visitor sees, from server after server.
    #[track_caller]
    pub(crate) fn count(&self, numbers: &[u32], handler: &str) {
        let mut visitor = Browser::at(&self.fleet.url());
        let pages: Vec<String> = numbers.iter().map(|_| visitor.get("/").body).collect();
        let mut first = None;
        for (index, (page, number)) in pages.iter().zip(numbers).enumerate() {
            let greeting = format!("Hello #{number} from app");
            let rest =
                page.strip_prefix(&greeting).and_then(|rest| rest.strip_suffix(&format!(" by {handler}")));
            let server: usize =
                rest.unwrap_or_else(|| panic!("{pages:#?}\n{}", self.fleet.log())).parse().unwrap();
            let first = *first.get_or_insert(server);
            assert_eq!((first + index - server) % 3, 0, "another server was to answer: {pages:#?}");
        }
    }
}
