//! `cloakroom detect`: which store the environment names, what else was seen there, and why it was passed over.

mod env_file;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cloakroom::detect::{Candidate, Choice, Standing, Survey, survey};
use cloakroom::{Environment, Error, ErrorKind, Result, Settings, stores};
use serde_json::{Map, Value, json};

use crate::output::{BAD, DOUBTFUL, FAINT, GOOD, Row, paint, say, table, tell};
use crate::process::environment_of;

/// Says which store the environment names, and why
///
/// Lists everything in the environment that may name a store for sessions, in the order of precedence: where it stands, the
/// store with its secrets masked, and why it was chosen or passed over. Reads the environment and the files that it names;
/// connects to nothing (`cloakroom check auto` does).
///
/// Exit codes: 0 a store was chosen, or files are; 1 none could be (two that are equally meant, a value that cannot be
/// understood); 2 wrong usage, or what to look at cannot be read.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Look at the variables of this file and at no others
    ///
    /// One NAME=value a line, as `docker run --env-file` takes them; NAME alone takes this environment's. A value in quotes
    /// is without them, with \n, \" and \\ in double ones. Lines that begin with # and empty ones are skipped.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Look at the environment that this process was started with: that of php-fpm's master, say
    #[arg(long, value_name = "PID", conflicts_with = "env_file")]
    pid: Option<u32>,
    /// Take VCAP_SERVICES from this file
    ///
    /// Beside it, what --env-file or --pid say; without these, of this environment only the two names of services that the
    /// Cloud Foundry buildpack knows (REDIS_SESSION_STORE_SERVICE_NAME, MEMCACHED_SESSION_STORE_SERVICE_NAME). What `cf curl
    /// /v3/apps/GUID/env` prints will do, too.
    #[arg(long, value_name = "FILE")]
    vcap: Option<PathBuf>,
    /// The same as JSON: store, from, candidates; or error, and no store
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let environment = match environment(arguments) {
        Ok(environment) => environment,
        Err(error) => {
            tell!("{}{error}", paint(BAD, "error: "));
            return Ok(ExitCode::from(2));
        }
    };
    let found = usable(survey(&environment));
    match arguments.json {
        true => say!("{:#}", as_json(&found)),
        false => print(&found),
    }
    found.choice.map(|_| ExitCode::SUCCESS)
}

/// The environment that is looked at.
fn environment(arguments: &Arguments) -> Result<Environment> {
    let mut environment = match (&arguments.env_file, arguments.pid, &arguments.vcap) {
        (Some(path), ..) => env_file::parse(path, &read(path)?)?,
        (None, Some(pid), _) => environment_of(pid)?,
        (None, None, Some(_)) => services_named_here(),
        (None, None, None) => Environment::of_process(),
    };
    if let Some(path) = &arguments.vcap {
        environment.set("VCAP_SERVICES_FILE_PATH", "");
        environment.set("VCAP_SERVICES", services(&read(path)?));
    }
    Ok(environment)
}

fn services_named_here() -> Environment {
    let here = Environment::of_process();
    let names = ["REDIS_SESSION_STORE_SERVICE_NAME", "MEMCACHED_SESSION_STORE_SERVICE_NAME"];
    names.into_iter().filter_map(|name| Some((name, here.var(name)?))).collect()
}

/// The services alone, where more of the application is around them.
fn services(text: &str) -> String {
    let inside = |value: &Value| {
        let whole = value.get("system_env_json").unwrap_or(value);
        whole.get("VCAP_SERVICES").map(Value::to_string)
    };
    serde_json::from_str(text).ok().and_then(|value| inside(&value)).unwrap_or_else(|| text.to_owned())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::Config, format!("cannot read {}", path.display()))
            .source(error)
            .hint("name a file of text that this user may read")
    })
}

/// What was found, unless the store refuses the options of its URL. What it is worth beyond, only connecting tells.
fn usable(mut found: Survey) -> Survey {
    let Ok(Choice::Store { url, because }) = &found.choice else { return found };
    // A store that this build does not have is one all the same.
    if let Err(error) = stores::open(url, Settings::default())
        && error.kind() == ErrorKind::Config
    {
        let chosen = found.candidates.iter_mut().filter(|candidate| candidate.standing == Standing::Chosen);
        chosen.for_each(|candidate| {
            candidate.standing = Standing::PassedOver("it has an option that is refused".into())
        });
        found.choice = Err(error.about(because));
    }
    found
}

fn print(found: &Survey) {
    match &found.choice {
        Ok(Choice::Store { url, because }) => say!("store: {} ({because})", paint(GOOD, &url.to_string())),
        Ok(Choice::Files { because, .. }) => say!("store: files ({because})"),
        // The error comes at the end.
        Err(_) => {}
    }
    if !found.candidates.is_empty() {
        let rows: Vec<Row> = found.candidates.iter().map(row).collect();
        let start = if found.choice.is_ok() { "\n" } else { "" };
        say!("{start}{}", table(&["named by", "rank", "platform", "store", "standing"], &rows));
    }
    for notice in &found.notices {
        say!("\n{}{notice}", paint(DOUBTFUL, "notice: "));
    }
}

fn row(candidate: &Candidate) -> Row {
    let (style, standing) = match &candidate.standing {
        Standing::Chosen => (GOOD, "chosen".to_owned()),
        Standing::PassedOver(why) => (FAINT, why.clone()),
    };
    let store = candidate.url.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let cells = vec![
        candidate.named_by(),
        candidate.rank.to_string(),
        candidate.platform.to_owned(),
        store,
        standing,
    ];
    Row { style, cells }
}

fn as_json(found: &Survey) -> Value {
    let mut value = Map::new();
    match &found.choice {
        Ok(Choice::Store { url, .. }) => {
            let chosen = found.candidates.iter().find(|candidate| candidate.standing == Standing::Chosen);
            value.insert("store".into(), url.to_string().into());
            value.insert("from".into(), json!(chosen.map(|candidate| &candidate.from)));
        }
        Ok(Choice::Files { from, .. }) => {
            value.insert("store".into(), "files".into());
            value.insert("from".into(), json!(from));
        }
        Err(error) => {
            value.insert("error".into(), error.to_string().into());
        }
    }
    let candidates = found.candidates.iter().map(|candidate| {
        let reason = match &candidate.standing {
            Standing::Chosen => None,
            Standing::PassedOver(why) => Some(why),
        };
        json!({
            "from": candidate.from, "part": candidate.part, "rank": candidate.rank, "platform": candidate.platform,
            "store": candidate.url.as_ref().map(ToString::to_string), "chosen": reason.is_none(), "reason": reason,
        })
    });
    value.insert("candidates".into(), candidates.collect());
    value.insert("platform".into(), found.platform.into());
    value.insert("notices".into(), json!(found.notices));
    Value::Object(value)
}
