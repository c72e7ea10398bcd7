//! PHP's own programs on this system: where they have their files, and whether they load what the files name. Those below
//! another root are never run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::findings::{self as kinds, Finding};
use super::judge::loads;
use super::progress::during;
use super::sapis::{Place, Sapi};

/// What the `php` command says of its php.ini and of the directories it scans, where it lies nowhere that is known.
pub(super) fn ini_of_php() -> Option<(PathBuf, Vec<PathBuf>)> {
    let output = Command::new("php").arg("--ini").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?.trim();
        (value != "(none)").then(|| value.to_owned())
    };
    let ini = value("Loaded Configuration File:").map(PathBuf::from);
    let scanned = value("Scan for additional .ini files in:").unwrap_or_default();
    let scanned: Vec<PathBuf> = scanned.split(':').filter(|it| !it.is_empty()).map(PathBuf::from).collect();
    (ini.is_some() || !scanned.is_empty()).then(|| (ini.unwrap_or_default(), scanned))
}

/// Asks each program once which modules it has.
pub(super) fn look(root: &Path, places: &[Place]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut asked: Vec<&Path> = Vec::new();
    for place in places {
        if root == Path::new("/") && !asked.contains(&place.ini_file.as_path()) {
            asked.push(&place.ini_file);
            found.extend(fails_to_load(place));
        }
    }
    found
}

fn fails_to_load(place: &Place) -> Option<Finding> {
    let named: Vec<_> = ["cloakroom", "redis", "memcached"]
        .into_iter()
        .filter_map(|extension| Some((extension, loads(place, extension)?)))
        .collect();
    let kind = match place.sapi {
        Sapi::Cli => "php",
        Sapi::Fpm => "php-fpm",
        // Its PHP is no program.
        Sapi::Apache => return None,
    };
    if named.is_empty() {
        return None;
    }
    let scanned = place.ini_file.parent()?;
    let ask = |program: &str| {
        let mut command = Command::new(program);
        command.arg("-c").arg(&place.ini).arg("-m").env("PHP_INI_SCAN_DIR", scanned).stdin(Stdio::null());
        Some((program.to_owned(), command.output().ok()?))
    };
    let programs =
        [format!("{kind}{}", place.version), format!("/usr/sbin/{kind}{}", place.version), kind.into()];
    let (program, output) =
        during(&format!("asking {kind} for its modules"), || programs.iter().find_map(|it| ask(it)))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (modules, log) = (text(&output.stdout), text(&output.stderr));
    let (extension, said) = named
        .into_iter()
        .find(|(extension, _)| !modules.lines().any(|line| line.eq_ignore_ascii_case(extension)))?;
    let (at, value) = (&said.setting.at, &said.setting.value);
    let cause = [&modules, &log].into_iter().flat_map(|text| text.lines()).find_map(|line| {
        let (_, cause) = line.split_once("PHP Startup: ")?;
        cause.contains(value.as_str()).then(|| format!(": {cause}"))
    });
    let what = format!("{at}: {program} does not load {extension}{}", cause.unwrap_or_default());
    let change = format!("put the file there that was built for this PHP ({program} -m lists what it loads)");
    Some(Finding::problem(kinds::DOES_NOT_LOAD, what, change))
}
