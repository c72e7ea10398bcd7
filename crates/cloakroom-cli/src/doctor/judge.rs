//! What is wrong with what the files say.

use std::path::{Path, PathBuf};

use cloakroom::{Environment, SavePath};

use super::findings::{self as kinds, Finding, Kind};
use super::php_ini::{Fault, Line};
use super::sapis::{Layer, Place, Said, Sapi, System, has_extension, names_in, text_of};

/// PHP's own settings, of 8.1 to 8.5.
const SESSION: &[&str] = &[
    "session.auto_start",
    "session.cache_expire",
    "session.cache_limiter",
    "session.cookie_domain",
    "session.cookie_httponly",
    "session.cookie_lifetime",
    "session.cookie_partitioned",
    "session.cookie_path",
    "session.cookie_samesite",
    "session.cookie_secure",
    "session.gc_divisor",
    "session.gc_maxlifetime",
    "session.gc_probability",
    "session.lazy_write",
    "session.name",
    "session.referer_check",
    "session.save_handler",
    "session.save_path",
    "session.serialize_handler",
    "session.sid_bits_per_character",
    "session.sid_length",
    "session.trans_sid_hosts",
    "session.trans_sid_tags",
    "session.upload_progress.cleanup",
    "session.upload_progress.enabled",
    "session.upload_progress.freq",
    "session.upload_progress.min_freq",
    "session.upload_progress.name",
    "session.upload_progress.prefix",
    "session.use_cookies",
    "session.use_only_cookies",
    "session.use_strict_mode",
    "session.use_trans_sid",
];

/// Cloakroom's.
const CLOAKROOM: &[&str] = &[
    "cloakroom.connect_timeout",
    "cloakroom.detect",
    "cloakroom.drop_in",
    "cloakroom.lease",
    "cloakroom.lease_max",
    "cloakroom.lock",
    "cloakroom.lock_wait",
    "cloakroom.max_waiters",
    "cloakroom.on_lock_timeout",
    "cloakroom.on_write_failure",
    "cloakroom.timeout",
];

/// php-memcached's until version 2, as Cloud Foundry still writes them, and what they are called since.
const GONE: &[(&str, Option<&str>)] =
    &[("memcached.sess_binary", Some("memcached.sess_binary_protocol")), ("memcached.use_sasl", None)];

/// The save handlers that are known, and the extension that each is from.
const HANDLERS: &[(&str, Option<&str>)] = &[
    ("files", None),
    ("user", None),
    ("cloakroom", Some("cloakroom")),
    ("redis", Some("redis")),
    ("rediscluster", Some("redis")),
    ("memcached", Some("memcached")),
    ("memcache", Some("memcache")),
];

/// All that the files alone tell.
pub(super) fn judge(root: &Path, app: Option<&Path>, system: &System) -> Result<Vec<Finding>, String> {
    let mut found: Vec<Finding> = Vec::new();
    for fault in &system.faults {
        found.push(syntax(fault)?);
    }
    for (file, name) in system.elsewhere.iter().filter(|(_, name)| concerns_sessions(name)) {
        let what = format!("{}: {name} stands below [PATH=...] or [HOST=...]", file.display());
        found.push(Finding::problem(kinds::ELSEWHERE, what, "move the line above that section"));
    }
    for (at, name) in &system.unset {
        if concerns_sessions(line_of(at)?.trim()) {
            let what = format!("{at}: ${{{name}}} is not set here, so that nothing stands in its place");
            let change = format!("set {name} where PHP starts; --pid looks into a running php-fpm");
            found.push(Finding::problem(kinds::UNSET, what, change));
        }
    }
    let faulty = |at: &Line| system.faults.iter().any(|fault| fault.at == *at);
    for place in &system.places {
        for said in &place.said {
            if !faulty(&said.setting.at) {
                found.extend(typing(said));
            }
        }
        found.extend(handler(place, system));
        found.extend(missing_file(root, place));
        found.extend(lost(place));
        found.extend(place.holds("session.name").filter(|it| it.setting.value == "JSESSIONID").map(|it| {
            let what = format!("{}: session.name = JSESSIONID", it.setting.at);
            Finding::problem(kinds::STICKY, what, format!("{}: session.name = PHPSESSID", it.setting.at))
        }));
        found.extend(collecting(root, place)?);
        found.extend(secret(place));
        found.extend(rejected(place));
    }
    found.extend(serializers(system));
    found.extend(unread(app, system)?);
    // Two SAPIs read the same file.
    let mut once: Vec<Finding> = Vec::new();
    for finding in found {
        if !once.contains(&finding) {
            once.push(finding);
        }
    }
    Ok(once)
}

/// Whether PHP does not get what was meant by this line: that is said, and what comes of it is not.
pub(super) fn is_broken(said: &Said, system: &System) -> bool {
    typing(said).is_some() || system.faults.iter().any(|fault| fault.at == said.setting.at)
}

/// How a value is shown: the URL of a store without its secrets, a password not at all.
pub(super) fn shown(name: &str, value: &str) -> String {
    if name.trim_end_matches(']').ends_with("password") {
        return "...".to_owned();
    }
    // A store may have got to where it does not belong.
    if name != "session.save_path" && !value.contains(['?', '@', ':']) || value.is_empty() {
        return value.to_owned();
    }
    match SavePath::parse(value, &Environment::of_process()) {
        Ok(SavePath::Store(url)) => url.to_string(),
        Ok(SavePath::Detect) => value.to_owned(),
        Err(_) => "...".to_owned(),
    }
}

fn line_of(at: &Line) -> Result<String, String> {
    Ok(text_of(&at.file)?.lines().nth(at.number - 1).unwrap_or_default().to_owned())
}

fn syntax(fault: &Fault) -> Result<Finding, String> {
    let Fault { at, unexpected, setting, lost } = fault;
    let mut names: Vec<&str> = lost.iter().map(String::as_str).filter(|it| concerns_sessions(it)).collect();
    names.dedup();
    let lost = match names.as_slice() {
        [] => String::new(),
        names => format!("; lost: {}", names.join(", ")),
    };
    let what = format!("{at}: PHP stops reading: unexpected {unexpected}{lost}");
    let line = line_of(at)?;
    let change = match (setting, line.split_once('=')) {
        _ if line.trim_start().starts_with('#') => format!("{at}: begin the comment with ; instead of #"),
        _ if unexpected.contains("not closed") => format!("{at}: close the quotes"),
        (Some(name), Some((_, value))) => {
            let value = value.trim().trim_matches(['“', '”', '„', '"', '‘', '’', '\'']);
            format!("{at}: {name} = \"{}\"", shown(name, value))
        }
        _ => format!("{at}: begin a comment with ;, and put values into \""),
    };
    Ok(Finding::problem(kinds::SYNTAX, what, change))
}

fn concerns_sessions(name: &str) -> bool {
    [
        "session.",
        "cloakroom.",
        "extension",
        "php_value[session.",
        "php_admin_value[session.",
        "redis.",
        "memcached.",
    ]
    .iter()
    .any(|begin| name.starts_with(begin))
}

/// Names and values that are not what was meant.
fn typing(said: &Said) -> Option<Finding> {
    let setting = &said.setting;
    let (at, name) = (&setting.at, setting.name.as_str());
    if !concerns_sessions(name) {
        return None;
    }
    if let Some((_, right)) = GONE.iter().find(|(gone, _)| *gone == name) {
        let change = match right {
            Some(right) => format!("{at}: {right} = {}", setting.value),
            None => format!("{at}: remove the line"),
        };
        return Some(Finding::problem(kinds::MISSPELT, format!("{at}: there is no setting {name}"), change));
    }
    let known = if name.starts_with("cloakroom.") { CLOAKROOM } else { SESSION };
    if (name.starts_with("session.") || name.starts_with("cloakroom.")) && !known.contains(&name) {
        let value = shown(&meant(name, known).unwrap_or_default(), &setting.value);
        let change = match meant(name, known) {
            Some(right) => format!("{at}: {right} = {value}"),
            None => format!("{at}: remove the line"),
        };
        return Some(Finding::problem(kinds::MISSPELT, format!("{at}: there is no setting {name}"), change));
    }
    if setting.value.contains(['“', '”', '„']) {
        let value = setting.value.trim_matches(['“', '”', '„']);
        let change = format!("{at}: {name} = \"{}\"", shown(name, value));
        return Some(Finding::problem(kinds::CURLY, format!("{at}: {name} has curly quotes"), change));
    }
    if let Some((value, _)) = setting.value.split_once(" #") {
        let change = format!("{at}: {name} = \"{}\" ; and the comment", shown(name, value.trim()));
        let what = format!("{at}: {name} has the text behind # in its value");
        return Some(Finding::problem(kinds::HASH, what, change));
    }
    None
}

/// The nearest of the known names.
fn meant(name: &str, known: &[&str]) -> Option<String> {
    let near = known.iter().map(|right| (distance(name, right), *right)).min()?;
    (near.0 <= 3).then(|| near.1.to_owned())
}

/// How many characters differ (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, right) in other.iter().enumerate() {
            let changed = diagonal + usize::from(left != *right);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

fn handler(place: &Place, system: &System) -> Option<Finding> {
    let said = place.holds("session.save_handler")?;
    let (at, value) = (&said.setting.at, said.setting.value.as_str());
    if typing(said).is_some() {
        return None;
    }
    let Some((_, extension)) = HANDLERS.iter().find(|(name, _)| *name == value) else {
        let names: Vec<&str> = HANDLERS.iter().map(|(name, _)| *name).collect();
        let right = meant(value, &names).unwrap_or_else(|| "cloakroom".to_owned());
        let what = format!("{at}: there is no save handler \"{}\"", shown("session.save_handler", value));
        return Some(Finding::problem(kinds::HANDLER, what, format!("{at}: session.save_handler = {right}")));
    };
    let extension = (*extension)?;
    if loads(place, extension).is_some() || stands_in(place, value) {
        return None;
    }
    let elsewhere = system.places.iter().find_map(|other| Some((other, loads(other, extension)?)));
    let others = elsewhere.map(|(other, line)| format!("; {} does ({})", other.name, line.setting.at));
    let what = format!(
        "{}: session.save_handler = {value} ({at}), but the extension {extension} is not loaded there{}",
        place.name,
        others.unwrap_or_default()
    );
    let change = format!("{}: extension = {extension}", place.ini_file.display());
    Some(Finding::problem(kinds::NOT_LOADED, what, change))
}

/// The line that loads an extension.
pub(super) fn loads<'a>(place: &'a Place, extension: &str) -> Option<&'a Said> {
    place.all("extension").find(|said| {
        let file = Path::new(&said.setting.value).file_stem().unwrap_or_default().to_string_lossy();
        file == extension || file.strip_prefix("lib").is_some_and(|it| it == format!("{extension}_php"))
    })
}

fn missing_file(root: &Path, place: &Place) -> Option<Finding> {
    let said = ["cloakroom", "redis", "memcached"].iter().find_map(|it| loads(place, it))?;
    let (at, value) = (&said.setting.at, said.setting.value.as_str());
    let change = |where_it_goes: &str| format!("{at}: name the file, or put it {where_it_goes}");
    if value.starts_with('/') {
        if below(root, value).is_file() {
            return None;
        }
        let what = format!("{at}: extension = {value}: there is no such file");
        return Some(Finding::problem(kinds::NO_FILE, what, change("there")));
    }
    let mut directories: Vec<PathBuf> =
        place.value("extension_dir").map(|path| below(root, path)).into_iter().collect();
    if directories.is_empty() {
        for parent in ["usr/lib/php", "usr/local/lib/php/extensions"] {
            directories.extend(names_in(&root.join(parent)).ok()?);
        }
        directories.push(root.join("usr/lib64/php/modules"));
    }
    directories.retain(|directory| {
        names_in(directory).is_ok_and(|files| files.iter().any(|it| has_extension(it, "so")))
    });
    let file = if value.ends_with(".so") { value.to_owned() } else { format!("{value}.so") };
    if directories.is_empty() || directories.iter().any(|directory| directory.join(&file).is_file()) {
        return None;
    }
    let what = format!("{at}: extension = {value}: {} has no {file}", directories[0].display());
    Some(Finding::problem(kinds::NO_FILE, what, change("into that directory")))
}

/// A path of the system that has this root.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Lines that do not hold because of another one.
fn lost(place: &Place) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in SESSION {
        let Some(winner) = place.holds(name) else { continue };
        for loser in place.all(name).filter(|it| it.setting.value != winner.setting.value) {
            let (lost, holding) = (line(loser), line(winner));
            if loser.layer == Layer::App && winner.layer == Layer::Admin {
                let what = format!("{}: {lost} is ignored: php_admin_value sets {holding}", place.name);
                let change = format!(
                    "{}: remove the line, or make it php_value in {}",
                    loser.setting.at, winner.setting.at
                );
                found.push(Finding::problem(kinds::LOCKED, what, change));
            } else if shared(name, &loser.setting.value) {
                let what = format!("{}: {holding} overrides {lost}", place.name);
                let change = format!("{}: remove the line", winner.setting.at);
                let gravity =
                    if shared(name, &winner.setting.value) { Finding::note } else { Finding::problem };
                found.push(gravity(kinds::OVERRIDDEN, what, change));
            }
        }
    }
    found
}

fn line(said: &Said) -> String {
    let setting = &said.setting;
    format!("{} = {} ({})", setting.name, shown(&setting.name, &setting.value), setting.at)
}

/// Whether somebody chose this for more than one host.
fn shared(name: &str, value: &str) -> bool {
    match name {
        "session.save_handler" => value != "files",
        "session.save_path" => !value.is_empty() && !value.contains('/') || value.contains("://"),
        _ => false,
    }
}

/// Where PHP's garbage collection never runs, somebody else must.
fn collecting(root: &Path, place: &Place) -> Result<Option<Finding>, String> {
    let path = place.save_path();
    let directory = !shared("session.save_path", path) && (!path.is_empty() || place.handler() == "files");
    if place.sapi == Sapi::Cli || !directory || !["files", "cloakroom"].contains(&place.handler()) {
        return Ok(None);
    }
    let files = place.handler() == "files";
    let levels = path.contains(';') && !path.starts_with("0;");
    let never = place.holds("session.gc_probability").filter(|said| said.setting.value == "0");
    let why = match never {
        Some(said) => line(said),
        None if files && levels => format!("PHP's files handler does not collect below levels ({path})"),
        None => return Ok(None),
    };
    for file in names_in(&root.join("etc/cron.d"))? {
        let text = text_of(&file).unwrap_or_default();
        let debian = files && !levels && text.contains("sessionclean");
        if debian || text.contains("session_gc") || text.contains("cloakroom") {
            return Ok(None);
        }
    }
    let timer = "systemd/system/phpsessionclean.timer";
    let timed = ["lib", "usr/lib", "etc"].iter().any(|it| root.join(it).join(timer).is_file());
    if files && !levels && timed {
        return Ok(None);
    }
    let what =
        format!("{}: nobody removes expired sessions: {why}, and no task in /etc/cron.d does", place.name);
    let change = match never {
        Some(said) if !(files && levels) => format!("{}: session.gc_probability = 1", said.setting.at),
        _ => "/etc/cron.d/php-sessions: */30 * * * * root php -r 'session_gc();', or find -mmin".to_owned(),
    };
    Ok(Some(Finding::problem(kinds::GC, what, change)))
}

fn secret(place: &Place) -> Option<Finding> {
    let said = place.holds("session.save_path").filter(|_| place.handler() == "cloakroom")?;
    let value = &said.setting.value;
    let inline = shown("session.save_path", value).contains("***")
        && !value.contains("env:")
        && !value.contains("file:");
    inline.then(|| {
        let what = format!("{}: session.save_path holds a password", said.setting.at);
        let change = format!("{}: auth=env:NAME or auth=file:PATH in its place", said.setting.at);
        Finding::note(kinds::SECRET, what, change)
    })
}

/// Forms of older handlers, and of ours, that the native ones refuse.
fn rejected(place: &Place) -> Option<Finding> {
    let handler = place.handler();
    let said = place.holds("session.save_path").filter(|_| !stands_in(place, handler))?;
    let (at, path) = (&said.setting.at, said.setting.value.as_str());
    let (form, right) = match handler {
        "memcached" if path.starts_with("PERSISTENT=") => {
            let (id, servers) = path["PERSISTENT=".len()..].split_once(' ').unwrap_or_default();
            let right =
                format!("session.save_path = \"{servers}\", and memcached.sess_persistent = 1 (id {id})");
            ("PERSISTENT=, which php-memcached knows no more since version 3", right)
        }
        "redis" if path.starts_with("redis://") || path.starts_with("rediss://") => {
            let change =
                "session.save_path = \"tcp://host:port?auth=password\", or session.save_handler = cloakroom";
            ("redis://, which phpredis does not know", change.to_owned())
        }
        "redis" if path.contains("auth=&") || path.ends_with("auth=") => {
            let right = format!(
                "session.save_path = \"{}\"",
                shown(
                    "session.save_path",
                    &path.replace("?auth=&", "?").replace("?auth=", "").replace("&auth=", "")
                )
            );
            ("auth= without a password, with which phpredis logs in all the same", right)
        }
        _ => return None,
    };
    let what = format!("{at}: session.save_path has {form}");
    Some(Finding::problem(kinds::NATIVE, what, format!("{at}: {right}")))
}

/// Whether Cloakroom answers to this handler's name.
fn stands_in(place: &Place, handler: &str) -> bool {
    let names = place.value("cloakroom.drop_in").unwrap_or_default();
    names.split(',').any(|name| name.trim() == handler) && loads(place, "cloakroom").is_some()
}

/// SAPIs that share their sessions must write them alike.
fn serializers(system: &System) -> Vec<Finding> {
    let of = |place: &Place| place.value("session.serialize_handler").unwrap_or("php").to_owned();
    let mut found = Vec::new();
    for (index, one) in system.places.iter().enumerate() {
        for other in &system.places[index + 1..] {
            let same = (one.handler(), one.save_path()) == (other.handler(), other.save_path());
            if !same || of(one) == of(other) {
                continue;
            }
            let what = format!(
                "{} writes sessions with {}, {} with {}, into the same store",
                one.name,
                of(one),
                other.name,
                of(other)
            );
            let said = other.holds("session.serialize_handler").or(one.holds("session.serialize_handler"));
            let change = said.map_or(String::new(), |said| {
                let right = if of(other) == said.setting.value { of(one) } else { of(other) };
                format!("{}: session.serialize_handler = {right}", said.setting.at)
            });
            found.push(Finding::problem(kinds::SERIALIZERS, what, change));
        }
    }
    found
}

/// Files of the app that have something to say to nobody.
fn unread(app: Option<&Path>, system: &System) -> Result<Vec<Finding>, String> {
    let mut found = Vec::new();
    let Some(app) = app else { return Ok(found) };
    for (name, reader) in [(".user.ini", "PHP-FPM"), (".htaccess", "Apache with mod_php")] {
        let file = app.join(name);
        if !file.is_file() || system.app_files.contains(&file) {
            continue;
        }
        let text = text_of(&file)?;
        let speaks = |line: &&str| {
            let line = line.trim();
            line.starts_with("session.") || line.starts_with("php_") && line.contains("session.")
        };
        if let Some(line) = text.lines().find(speaks) {
            let name =
                line.split(['=', ' ', '\t']).find(|word| word.starts_with("session.")).unwrap_or_default();
            let what = format!("{} sets {name}, and only {reader} would read it", file.display());
            let change = "move the line to php.ini, or to the file that this SAPI reads";
            found.push(Finding::problem(kinds::UNREAD, what, change));
        }
    }
    Ok(found)
}

/// A kind of finding for an error of the library, by what it says.
pub(super) fn kind_of(error: &cloakroom::Error) -> &'static Kind {
    use cloakroom::ErrorKind;
    let text = error.to_string();
    match error.kind() {
        _ if text.contains("TLS") || text.contains("certificate") => kinds::TLS,
        ErrorKind::Config if text.contains("there is no table") => kinds::NO_TABLE,
        ErrorKind::Config => kinds::SAVE_PATH,
        ErrorKind::Auth => kinds::REFUSED,
        ErrorKind::Full => kinds::FULL,
        ErrorKind::Unsupported => kinds::UNSAFE,
        _ if text.contains("replica") => kinds::REPLICA,
        _ => kinds::NO_STORE,
    }
}
