//! Where each SAPI has its settings from: the trees of Debian, of Red Hat's family and of Docker's images of PHP.

use std::path::{Path, PathBuf};

use cloakroom::Environment;

use super::apache;
use super::php_ini::{Fault, Ini, Line, Setting};
use super::programs;

/// How PHP is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sapi {
    /// The `php` command
    Cli,
    /// PHP-FPM
    Fpm,
    /// Apache with mod_php
    Apache,
}

/// Who says something, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// php.ini and the files of conf.d.
    Files,
    /// `php_value` of a pool, or of Apache's configuration.
    Server,
    /// `.user.ini` or `.htaccess`.
    App,
    /// `php_admin_value`.
    Admin,
}

/// One line, and who says it.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) layer: Layer,
    pub(super) setting: Setting,
}

/// A SAPI, or one pool of PHP-FPM, and all that is said to it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) sapi: Sapi,
    /// As people name it: `FPM 8.2, pool www`.
    pub(super) name: String,
    /// In the order in which PHP reads it.
    pub(super) said: Vec<Said>,
    /// Whom its workers run as.
    pub(super) user: Option<String>,
    /// Where an extension's line would go.
    pub(super) ini_file: PathBuf,
    /// php.ini.
    pub(super) ini: PathBuf,
    /// PHP's, where the tree is of one version.
    pub(super) version: String,
}

impl Place {
    /// What holds, and who says it.
    pub(super) fn holds(&self, name: &str) -> Option<&Said> {
        // Of two php_admin_value, as of all, PHP takes the later; they were collected so.
        self.all(name).max_by_key(|said| said.layer == Layer::Admin)
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.holds(name).map(|said| said.setting.value.as_str())
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Said> {
        self.said.iter().filter(move |said| said.setting.name == name)
    }

    /// `session.save_handler`.
    pub(super) fn handler(&self) -> &str {
        self.value("session.save_handler").unwrap_or("files")
    }

    /// `session.save_path`.
    pub(super) fn save_path(&self) -> &str {
        self.value("session.save_path").unwrap_or_default()
    }
}

/// All that was found below a root.
#[derive(Debug, Default)]
pub(super) struct System {
    pub(super) places: Vec<Place>,
    /// What is wrong with the files, each file once.
    pub(super) faults: Vec<Fault>,
    /// Settings that hold for a path or host alone.
    pub(super) elsewhere: Vec<(PathBuf, String)>,
    /// Lines of sessions that name variables which are not set.
    pub(super) unset: Vec<(Line, String)>,
    /// The files of the app that some SAPI reads.
    pub(super) app_files: Vec<PathBuf>,
}

/// Where to look.
pub(super) struct Search<'a> {
    pub(super) root: &'a Path,
    pub(super) app: Option<&'a Path>,
    /// PHP-FPM's configuration, where a running master names it.
    pub(super) fpm: Option<PathBuf>,
    pub(super) environment: &'a Environment,
}

/// The ini files of one SAPI.
struct Tree {
    sapi: Sapi,
    version: String,
    ini: PathBuf,
    scanned: Vec<PathBuf>,
    /// PHP-FPM's configuration.
    fpm: Option<PathBuf>,
}

impl Search<'_> {
    /// Reads them all.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub(super) fn system(&self) -> Result<System, String> {
        let mut system = System::default();
        for tree in self.trees()? {
            self.read(&tree, &mut system)?;
        }
        Ok(system)
    }

    fn trees(&self) -> Result<Vec<Tree>, String> {
        let mut trees = Vec::new();
        let below = |path: &str| self.root.join(path);
        for version in names_in(&below("etc/php"))? {
            for (sapi, name) in [(Sapi::Cli, "cli"), (Sapi::Fpm, "fpm"), (Sapi::Apache, "apache2")] {
                let own = version.join(name);
                if own.is_dir() {
                    let fpm = (sapi == Sapi::Fpm).then(|| own.join("php-fpm.conf"));
                    let version = version.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    trees.push(Tree {
                        sapi,
                        version,
                        ini: own.join("php.ini"),
                        scanned: vec![own.join("conf.d")],
                        fpm,
                    });
                }
            }
        }
        // One tree for all SAPIs.
        for (ini, scanned, fpm) in [
            ("etc/php.ini", "etc/php.d", "etc/php-fpm.conf"),
            ("usr/local/etc/php/php.ini", "usr/local/etc/php/conf.d", "usr/local/etc/php-fpm.conf"),
        ] {
            let (ini, scanned, fpm) = (below(ini), below(scanned), below(fpm));
            if !ini.is_file() && !scanned.is_dir() {
                continue;
            }
            let tree = |sapi, fpm| Tree {
                sapi,
                version: String::new(),
                ini: ini.clone(),
                scanned: vec![scanned.clone()],
                fpm,
            };
            trees.push(tree(Sapi::Cli, None));
            if fpm.is_file() {
                trees.push(tree(Sapi::Fpm, Some(fpm)));
            }
            if apache::runs_php(self.root)? {
                trees.push(tree(Sapi::Apache, None));
            }
        }
        if trees.is_empty() && self.root == Path::new("/") {
            let tree =
                |(ini, scanned)| Tree { sapi: Sapi::Cli, version: String::new(), ini, scanned, fpm: None };
            trees.extend(programs::ini_of_php().map(tree));
        }
        Ok(trees)
    }

    fn read(&self, tree: &Tree, system: &mut System) -> Result<(), String> {
        let mut files = vec![tree.ini.clone()];
        for directory in &tree.scanned {
            files.extend(names_in(directory)?.into_iter().filter(|file| has_extension(file, "ini")));
        }
        let mut said = Vec::new();
        for file in files.iter().filter(|file| file.is_file()) {
            said.extend(self.ini(file, Layer::Files, system)?);
        }
        let name = |kind: &str| format!("{kind} {}", tree.version).trim_end().to_owned();
        let place = |name: String, said: Vec<Said>, user: Option<String>| Place {
            sapi: tree.sapi,
            name,
            said,
            user,
            ini_file: tree.scanned.first().unwrap_or(&tree.ini).join("cloakroom.ini"),
            ini: tree.ini.clone(),
            version: tree.version.clone(),
        };
        match tree.sapi {
            Sapi::Cli => system.places.push(place(name("CLI"), said, None)),
            Sapi::Apache => {
                let apache = apache::read(self.root)?;
                said.extend(apache.said);
                if let Some(app) = self.app {
                    let file = app.join(".htaccess");
                    if file.is_file() {
                        said.extend(apache::lines(&file, Layer::App)?.said);
                        system.app_files.push(file);
                    }
                }
                system.places.push(place(name("Apache"), said, apache.user));
            }
            Sapi::Fpm => {
                let conf = self.fpm.clone().or_else(|| tree.fpm.clone()).unwrap_or_default();
                for pool in self.pools(&conf, system)? {
                    let mut said = said.clone();
                    said.extend(pool.said);
                    if let Some(app) = self.app {
                        let file = app.join(".user.ini");
                        if file.is_file() {
                            said.extend(self.ini(&file, Layer::App, system)?);
                            system.app_files.push(file);
                        }
                    }
                    let name = format!("{}, pool {}", name("FPM"), pool.name);
                    system.places.push(place(name, said, pool.user));
                }
            }
        }
        Ok(())
    }

    fn ini(&self, file: &Path, layer: Layer, system: &mut System) -> Result<Vec<Said>, String> {
        let ini = Ini::parse(file, &text_of(file)?, self.environment);
        if let Some(fault) = ini.fault.filter(|fault| !system.faults.contains(fault)) {
            system.faults.push(fault);
        }
        for unset in ini.unset {
            if !system.unset.contains(&unset) {
                system.unset.push(unset);
            }
        }
        for name in ini.elsewhere {
            let there = (file.to_owned(), name);
            if !system.elsewhere.contains(&there) {
                system.elsewhere.push(there);
            }
        }
        Ok(ini.settings.into_iter().map(|setting| Said { layer, setting }).collect())
    }

    /// The pools of a configuration and of all that it includes.
    fn pools(&self, conf: &Path, system: &mut System) -> Result<Vec<Pool>, String> {
        let mut pools: Vec<Pool> = Vec::new();
        if !conf.is_file() {
            return Ok(pools);
        }
        let mut files = vec![conf.to_owned()];
        let text = text_of(conf)?;
        for line in Ini::parse(conf, &text, self.environment).settings {
            if line.name == "include" {
                // Without a / it begins at PHP's prefix: Docker's images of PHP have it so.
                let local = !line.value.starts_with('/') && conf.starts_with(self.root.join("usr/local"));
                let prefix = if local { "usr/local/" } else { "" };
                files.extend(matching(self.root, &[prefix, &line.value].concat())?);
            }
        }
        for file in files {
            let text = text_of(&file)?;
            let ini = Ini::parse(&file, &text, self.environment);
            if let Some(fault) = ini.fault.filter(|fault| !system.faults.contains(fault)) {
                system.faults.push(fault);
            }
            // One [section] a pool, by the numbers of their lines.
            let starts: Vec<(usize, &str)> = text
                .lines()
                .enumerate()
                .filter_map(|(index, line)| {
                    let name = line.trim().strip_prefix('[')?.split(']').next()?;
                    Some((index + 1, name))
                })
                .collect();
            for (index, (start, name)) in starts.iter().enumerate() {
                if *name == "global" {
                    continue;
                }
                let end = starts.get(index + 1).map_or(usize::MAX, |(start, _)| *start);
                let own = ini.settings.iter().filter(|it| (*start..end).contains(&it.at.number));
                // Docker's images of PHP have one pool in three files.
                match pools.iter_mut().find(|pool| pool.name == *name) {
                    Some(pool) => pool.add(own),
                    None => pools.push(Pool::of(name, own)),
                }
            }
        }
        Ok(pools)
    }
}

/// A pool of PHP-FPM.
struct Pool {
    name: String,
    said: Vec<Said>,
    user: Option<String>,
}

impl Pool {
    fn of<'a>(name: &str, settings: impl Iterator<Item = &'a Setting>) -> Pool {
        let mut pool = Pool { name: name.to_owned(), said: Vec::new(), user: None };
        pool.add(settings);
        pool
    }

    fn add<'a>(&mut self, settings: impl Iterator<Item = &'a Setting>) {
        for setting in settings {
            if setting.name == "user" {
                self.user = Some(setting.value.clone());
            }
            let Some((directive, rest)) = setting.name.split_once('[') else { continue };
            let layer = match directive {
                "php_value" | "php_flag" => Layer::Server,
                "php_admin_value" | "php_admin_flag" => Layer::Admin,
                _ => continue,
            };
            let name = rest.trim_end_matches(']').to_owned();
            // Of two lines for one setting PHP-FPM takes the first.
            if self.said.iter().any(|said| said.setting.name == name && said.layer == layer) {
                continue;
            }
            self.said.push(Said { layer, setting: Setting { name, ..setting.clone() } });
        }
    }
}

/// The text of a file, whatever its encoding.
pub(super) fn text_of(file: &Path) -> Result<String, String> {
    let bytes = std::fs::read(file).map_err(|error| cannot_read(file, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn cannot_read(path: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}\nhint: run it as a user who may, root for example", path.display())
}

/// What a directory has, in the order of the names; nothing where there is no such directory.
pub(super) fn names_in(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| cannot_read(directory, &error))?,
    };
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    names.sort();
    Ok(names)
}

pub(super) fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|its| its == extension)
}

/// The files of an `include` below the root: a `*` in the last part stands for anything.
fn matching(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    let path = root.join(pattern.trim_start_matches('/'));
    let last = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((before, after)) = last.split_once('*') else { return Ok(vec![path]) };
    let files = names_in(path.parent().unwrap_or(root))?;
    let fits = |file: &PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(before) && name.ends_with(after) && name.len() >= before.len() + after.len()
    };
    Ok(files.into_iter().filter(fits).collect())
}
