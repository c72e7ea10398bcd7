//! `cloakroom ini`: the settings with which PHP finds the store, written where PHP reads them.

mod file;
mod format;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use cloakroom::stores::{self, NativeSettings, memcached, redis};
use cloakroom::{Environment, Error, ErrorKind, Result, SavePath, StoreUrl, detect};

use crate::output::{DOUBTFUL, paint, tell};
use crate::store::settings;
use file::Part;
use format::Format;

/// Writes the settings that PHP needs for its sessions
///
/// Without SAVE_PATH the store is found as `cloakroom detect` shows. For Cloakroom the file then holds no secret: the extension
/// looks by itself when PHP starts. For phpredis and php-memcached it holds the password; where no store is found, sessions
/// stay in files.
///
/// Made to run each time a server starts. With --out the file's other lines are kept, lines that set the same settings are
/// commented out, and a file that says all of it already is not touched. Nothing is printed unless something is wrong.
///
/// Exit codes: 0 written, 1 a problem (nothing is written), 2 wrong usage.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What session.save_path says: tcp://host:6379, redis://host, env:NAME, a directory, auto, ...
    #[arg(default_value = "auto", hide_default_value = true)]
    save_path: String,
    /// The save handler
    #[arg(long = "for", value_enum, default_value = "cloakroom", value_name = "HANDLER")]
    handler: Handler,
    /// The file that it is for
    #[arg(long, value_enum, default_value = "php.ini")]
    format: Format,
    /// Writes into this file instead of to the output; a new one that may hold a password is readable by owner and group alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The pool of PHP-FPM, for --format fpm-pool
    #[arg(long, default_value = "www", value_name = "NAME")]
    pool: String,
    /// Sets session.name, too: whoever has a cookie of another name is logged out
    #[arg(long, value_name = "NAME")]
    session_name: Option<String>,
}

/// Whose settings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Handler {
    /// This project's extension
    Cloakroom,
    /// The extension "redis"
    Phpredis,
    /// The extension "memcached", 3.x
    PhpMemcached,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let part = part(arguments)?;
    match &arguments.out {
        Some(path) => part.put_into(path)?,
        // As it is: what colours the other commands' output would take control characters out of a password.
        None => std::io::stdout()
            .write_all(part.alone().as_bytes())
            .map_err(|error| Error::new(ErrorKind::Config, "cannot write the output").source(error))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn part(arguments: &Arguments) -> Result<Part> {
    let environment = Environment::of_process();
    let url = match SavePath::parse(&arguments.save_path, &environment)? {
        SavePath::Store(url) => Some(url),
        SavePath::Detect => found(&environment)?,
    };
    if let Some(url) = &url {
        // Whatever its options say wrong is said now, not by PHP.
        stores::open(url, settings(&environment))?;
    }
    let mut native = match arguments.handler {
        Handler::Cloakroom => for_cloakroom(arguments.save_path.trim()),
        Handler::Phpredis | Handler::PhpMemcached => for_native(arguments.handler, url.as_ref())?,
    };
    if let Some(name) = &arguments.session_name {
        native.settings.push(("session.name", cloakroom::Secret::new(name)));
    }
    let format = arguments.format;
    let mut lines: Vec<String> = native.notes.iter().map(|note| format.comment(note)).collect();
    for (name, value) in &native.settings {
        lines.push(format.line(name, value.reveal())?);
    }
    Ok(Part {
        format,
        pool: arguments.pool.clone(),
        names: native.settings.iter().map(|(name, _)| *name).collect(),
        lines,
        // A native handler's may get a password at a later run, and keeps its mode then.
        secret: arguments.handler != Handler::Cloakroom
            || (names_it(arguments.save_path.trim())
                && url.is_some_and(|url| url.to_string().contains("***"))),
    })
}

/// Whether this is the store's URL itself, and not where PHP is to look for it.
fn names_it(save_path: &str) -> bool {
    !matches!(save_path, "" | "auto") && !save_path.starts_with("env:")
}

/// The store that the environment names, or none: then sessions stay where PHP keeps them.
fn found(environment: &Environment) -> Result<Option<StoreUrl>> {
    let found = detect::detect(environment, "")?;
    for notice in &found.notices {
        tell!("{}{notice}", paint(DOUBTFUL, "notice: "));
    }
    Ok(Some(found.url).filter(|url| !(url.scheme == "file" && url.server().path.is_empty())))
}

fn for_cloakroom(save_path: &str) -> NativeSettings {
    let save_path = if save_path.is_empty() { "auto" } else { save_path };
    NativeSettings::of("cloakroom", save_path)
}

fn for_native(handler: Handler, url: Option<&StoreUrl>) -> Result<NativeSettings> {
    let Some(url) = url else {
        let mut files = NativeSettings::of("files", "");
        files.settings.truncate(1);
        return Ok(files);
    };
    let other = |it: &str, instead: &str| {
        let what = format!("this store is {it}");
        Err(Error::new(ErrorKind::Unsupported, what)
            .on(url.to_string())
            .hint(format!("write --for {instead}")))
    };
    let settings = match (url.scheme.as_str(), handler) {
        ("file", _) => return Ok(NativeSettings::of("files", &url.server().path)),
        ("dynamodb", _) => {
            let what = "AWS's own session handler is made in the app, and has no ini settings";
            return Err(Error::new(ErrorKind::Unsupported, what).on(url.to_string()).hint(
                "write --for cloakroom; apps with AWS's handler share its sessions (docs/dynamodb.md)",
            ));
        }
        ("memcached" | "memcacheds", Handler::Phpredis) => other("Memcached", "php-memcached"),
        ("memcached" | "memcacheds", _) => memcached::Options::parse(url)?.for_php_memcached(),
        (_, Handler::PhpMemcached) => other("Redis", "phpredis"),
        (_, _) => redis::Options::parse(url)?.for_phpredis(),
    };
    settings.map_err(|error| error.on(url.to_string()))
}
