//! `cloakroom doctor`: why sessions are not where they should be.
//!
//! It reads what PHP reads (`sapis.rs`, `php_ini.rs`, `apache.rs`), says what is wrong with that (`judge.rs`), and uses each
//! store that is named there for real (`directory.rs`, `server.rs`). It changes nothing: the one session that it makes is
//! deleted again.

mod apache;
mod apps;
mod directory;
mod findings;
mod judge;
mod php_ini;
mod programs;
mod progress;
mod sapis;
mod server;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cloakroom::{Environment, SavePath, StoreUrl, detect};
use serde_json::{Map, Value, json};

use directory::Worker;
use findings::{self as kinds, Finding};
use php_ini::Line;
use progress::during;
use sapis::{Place, Sapi, Search, System};
use server::Seen;

use crate::output::{BAD, GOOD, paint, say, tell};
use crate::process::environment_of;

/// Finds why sessions are not where they should be
///
/// Reads php.ini, conf.d, the pools of PHP-FPM and Apache's configuration as PHP reads them, and says which line loses,
/// overrides or misspells a setting; then locks, writes, reads and deletes a session for real in each store named there,
/// and looks at how the store is set up. Each finding says what, why it matters, and the line to change.
///
/// Exit codes: 0 fine (there may be notes), 1 a problem found, 2 wrong usage, or could not look.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What session.save_path says; without it, what the files of each SAPI say
    save_path: Option<String>,
    /// Look at this SAPI alone
    #[arg(long, value_enum)]
    sapi: Option<Sapi>,
    /// Where the system to look at has its root
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The app's document root: its .user.ini and .htaccess, and which app it is
    #[arg(long, value_name = "DIR")]
    app: Option<PathBuf>,
    /// A running php-fpm master: its configuration and its environment
    #[arg(long, value_name = "FPM")]
    pid: Option<u32>,
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let report = match examine(arguments) {
        Ok(report) => report,
        Err(error) => {
            tell!("{}{error}", paint(BAD, "error: "));
            return ExitCode::from(2);
        }
    };
    if arguments.json {
        report.print_json()
    } else {
        report.print()
    }
    ExitCode::from(u8::from(report.findings.iter().any(Finding::is_problem)))
}

fn examine(arguments: &Arguments) -> Result<Report, String> {
    // What is found is named by its whole path, and that of a store's directory must be whole.
    let whole = |directory: &PathBuf| match std::path::absolute(directory) {
        Ok(whole) if whole.is_dir() => Ok(whole),
        _ => Err(format!("{} is not a directory\nhint: name one that is there", directory.display())),
    };
    let (root, app) = (&whole(&arguments.root)?, arguments.app.as_ref().map(whole).transpose()?);
    let (environment, fpm) = match arguments.pid {
        None => (Environment::of_process(), None),
        Some(pid) => running(pid)?,
    };
    let search = Search { root, app: app.as_deref(), fpm, environment: &environment };
    let mut system = during("reading the configuration of PHP", || search.system())?;
    let sapi = arguments.sapi.or(arguments.pid.map(|_| Sapi::Fpm));
    system.places.retain(|place| sapi.is_none_or(|sapi| sapi == place.sapi));
    if system.places.is_empty() && arguments.save_path.is_none() {
        let hint = "name the store as an argument, or where the system is with --root";
        return Err(format!("found no PHP below {}\nhint: {hint}", root.display()));
    }
    let findings = judge::judge(root, app.as_deref(), &system)?;
    let mut report = Report { findings, ..Report::default() };
    report.findings.extend(programs::look(root, &system.places));
    if let Some(app) = &app {
        report.findings.extend(apps::look(app));
    }
    for target in targets(arguments, &system) {
        if target.serves && target.names_nothing() && arguments.pid.is_none() {
            let what = "session.save_path is empty, and this command's environment may not be PHP's";
            let change = "cloakroom doctor --pid PID, with the pid of php-fpm's master";
            report.findings.push(Finding::note(kinds::NOTICE, what, change));
        }
        report.look_at(root, &target, &environment);
    }
    report.system = system;
    Ok(report)
}

/// The environment of a running master, and the configuration that its title names.
fn running(pid: u32) -> Result<(Environment, Option<PathBuf>), String> {
    let environment = environment_of(pid).map_err(|error| error.to_string())?;
    let title = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let conf = title.split_once("master process (").and_then(|(_, rest)| rest.split(')').next());
    Ok((environment, conf.map(PathBuf::from)))
}

/// A store that somebody names.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    handler: String,
    save_path: String,
    /// Who uses it, as far as that is known.
    workers: Vec<Worker>,
    /// Whether it is for more than this host's command line.
    serves: bool,
    /// Where the files say so.
    at: Option<Line>,
}

impl Target {
    /// Whether the environment decides.
    fn names_nothing(&self) -> bool {
        self.handler == "cloakroom" && ["", "auto"].contains(&self.save_path.as_str())
    }
}

fn targets(arguments: &Arguments, system: &System) -> Vec<Target> {
    if let Some(save_path) = &arguments.save_path {
        let (handler, save_path) = ("cloakroom".to_owned(), save_path.clone());
        return vec![Target { handler, save_path, workers: Vec::new(), serves: false, at: None }];
    }
    let mut targets: Vec<Target> = Vec::new();
    let serving = system.places.iter().any(|place| place.sapi != Sapi::Cli);
    for place in &system.places {
        // What PHP does on the command line with files of its own is nobody's session.
        if serving && place.sapi == Sapi::Cli && place.handler() == "files" {
            continue;
        }
        let said = place.holds("session.save_path");
        if said.is_some_and(|said| judge::is_broken(said, system)) {
            continue;
        }
        let worker = place.user.clone().map(|user| Worker { place: place.name.clone(), user });
        let (handler, save_path) = (place.handler().to_owned(), place.save_path().to_owned());
        let same = targets.iter_mut().find(|it| it.handler == handler && it.save_path == save_path);
        match same {
            Some(target) => {
                target.workers.extend(worker);
                target.serves |= place.sapi != Sapi::Cli;
            }
            None => targets.push(Target {
                handler,
                save_path,
                workers: worker.into_iter().collect(),
                serves: place.sapi != Sapi::Cli,
                at: said.map(|said| said.setting.at.clone()),
            }),
        }
    }
    targets
}

#[derive(Default)]
struct Report {
    system: System,
    findings: Vec<Finding>,
    stores: Vec<(StoreUrl, Option<Seen>)>,
}

impl Report {
    fn look_at(&mut self, root: &Path, target: &Target, environment: &Environment) {
        let parsed = match target.handler.as_str() {
            "redis" | "rediscluster" => SavePath::parse_for_phpredis(&target.save_path, environment),
            "memcached" => SavePath::parse_for_php_memcached(&target.save_path, environment),
            "cloakroom" | "files" => SavePath::parse(&target.save_path, environment),
            // Said already, or none of ours.
            _ => return,
        };
        let own = || {
            let there = |path: &&&str| judge::below(root, path).is_dir();
            detect::DISTRIBUTION_DIRECTORIES.iter().find(there).copied().unwrap_or("/tmp")
        };
        let url = match parsed {
            Ok(SavePath::Store(url)) => url,
            Ok(SavePath::Detect) if target.handler == "cloakroom" => match detect::detect(environment, own())
            {
                Ok(found) => {
                    self.findings.extend(found.notices.iter().map(|notice| {
                        let (what, change) =
                            notice.split_once("\nhint: ").unwrap_or((notice, "cloakroom detect"));
                        Finding::note(kinds::NOTICE, what, change)
                    }));
                    found.url
                }
                Err(error) => {
                    let Finding { what, change, .. } = server::of(&error);
                    self.findings.push(Finding::problem(kinds::UNDETECTED, what, change));
                    return;
                }
            },
            Ok(SavePath::Detect) => StoreUrl::directory(own()),
            Err(error) => {
                let Finding { kind, what, change, .. } = server::of(&error);
                let at = target.at.as_ref().map(|at| format!("{at}: ")).unwrap_or_default();
                self.findings.push(Finding::problem(kind, at + &what, change));
                return;
            }
        };
        if url.scheme == "file" {
            let named = url.server().path.clone();
            let mut found = directory::look(root, &named, &target.workers);
            let (parts, name) =
                named.rsplit_once(';').map_or(("", named.as_str()), |(parts, name)| (parts, name));
            if found.is_empty() {
                let semicolon = if parts.is_empty() { "" } else { ";" };
                let path = format!("{parts}{semicolon}{}", judge::below(root, name).display());
                let (more, seen) = server::look(&StoreUrl::directory(&path), environment);
                found.extend(more);
                self.stores.push((url, seen));
            }
            if target.serves && found.is_empty() && !on_nfs(root, name) {
                let what = format!("{name} is on this host alone");
                let change = "session.save_path = \"redis://...\", or a directory on NFS, once there is a second server";
                found.push(Finding::note(kinds::LOCAL, what, change));
            }
            self.findings.extend(found);
            return;
        }
        let (found, seen) = server::look(&url, environment);
        self.findings.extend(found);
        self.stores.push((url, seen));
    }

    fn print(&self) {
        let mut text = String::new();
        for Place { name, .. } in &self.system.places {
            text += &format!("looked at {name}\n");
        }
        for (url, seen) in &self.stores {
            let mut words = String::new();
            if let Some(Seen { p50, p99, resolved }) = seen {
                words = format!(": round trip p50 {}, p99 {}", in_ms(*p50), in_ms(*p99));
                words.extend(resolved.iter().map(|(what, how)| format!("; {what}: {how}")));
            }
            text += &format!("looked at {url}{words}\n");
        }
        for finding in &self.findings {
            text += &format!("\n{finding}\n");
        }
        let problems = self.findings.iter().filter(|finding| finding.is_problem()).count();
        text += &match problems {
            0 => paint(GOOD, "\nok: no problem found"),
            1 => paint(BAD, "\n1 problem found"),
            _ => paint(BAD, &format!("\n{problems} problems found")),
        };
        say!("{text}");
    }

    fn print_json(&self) {
        let mut value = Map::new();
        let sapis = self.system.places.iter().map(|place| {
            json!({
                "sapi": place.name, "save_handler": judge::shown("session.save_handler", place.handler()),
                "save_path": judge::shown("session.save_path", place.save_path()),
            })
        });
        value.insert("ok".into(), (!self.findings.iter().any(Finding::is_problem)).into());
        value.insert("sapis".into(), sapis.collect());
        let stores = self.stores.iter().map(|(url, seen)| {
            let ms = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
            let mut value = json!({
                "store": url.to_string(),
                "p50_milliseconds": seen.as_ref().map(|it| ms(it.p50)),
                "p99_milliseconds": seen.as_ref().map(|it| ms(it.p99)),
            });
            for (what, how) in seen.iter().flat_map(|it| &it.resolved) {
                value["resolved"][*what] = how.as_str().into();
            }
            value
        });
        value.insert("stores".into(), stores.collect());
        value.insert("findings".into(), self.findings.iter().map(Finding::json).collect());
        say!("{:#}", Value::Object(value));
    }
}

fn in_ms(time: std::time::Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn on_nfs(root: &Path, name: &str) -> bool {
    let mounts = std::fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 3 && Path::new(name).starts_with(fields[1]));
    holding.max_by_key(|fields| fields[1].len()).is_some_and(|fields| fields[2].starts_with("nfs"))
}
