//! The store that a command works on, as its `--store` says or as the environment does.

use std::time::Duration;

use cloakroom::{
    Deadline, Ends, Environment, Holder, Life, Lock, Result, SavePath, Settings, Store, StoreUrl, detect,
    stores,
};
use serde_json::{Value, json};

use crate::output::tell;

/// Which store to look into.
#[derive(clap::Args)]
pub(crate) struct Chosen {
    /// What session.save_path says: a directory, tcp://host:6379, redis://host, env:NAME, ...; without it, what
    /// `cloakroom detect` finds
    #[arg(long = "store", value_name = "SAVE_PATH", default_value = "auto", hide_default_value = true)]
    save_path: String,
}

impl Chosen {
    pub(crate) fn open(&self) -> Result<(StoreUrl, Box<dyn Store>)> {
        let environment = Environment::of_process();
        let url = url(&self.save_path, &environment)?;
        let store = stores::open(&url, settings(&environment))?;
        Ok((url, store))
    }
}

/// The store that a save_path names; without a name, the one that detection finds.
pub(crate) fn url(save_path: &str, environment: &Environment) -> Result<StoreUrl> {
    match SavePath::parse(save_path, environment)? {
        SavePath::Store(url) => Ok(url),
        SavePath::Detect => Ok(detect::detect(environment, &std::env::temp_dir().to_string_lossy())?.url),
    }
}

/// Where PHP's `session.name` is a part of keys and the URL does not say it: which one was looked for.
pub(crate) fn tell_session_name(url: &StoreUrl) {
    if url.scheme == "dynamodb" && !url.server().params.iter().any(|param| param.name == "session_name") {
        let assumed = Settings::default().session_name;
        tell!(
            "hint: keys were taken to begin with {assumed}; where PHP's session.name is another, add session_name= to the URL"
        );
    }
}

/// PHP's defaults, and what chains of settings that a store has beside its URL look at.
pub(crate) fn settings(environment: &Environment) -> Settings {
    Settings { environment: environment.clone(), ..Settings::default() }
}

/// Enough for one look with every timeout used up.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// Enough to walk through all that a store has.
pub(crate) fn patiently() -> Deadline {
    Deadline::after(Duration::from_secs(600))
}

pub(crate) fn life(life: Life) -> String {
    match life {
        Life::Left(left) => format!("expires in {}", span(left)),
        Life::Unused(age) => format!("unused for {} (expires by session.gc_maxlifetime)", span(age)),
        Life::Endless => "never expires".into(),
        Life::Unknown => "not told by this store".into(),
    }
}

pub(crate) fn ends(lock: &Lock) -> String {
    match lock.ends {
        // Native handlers renew nothing.
        Ends::After(left) if matches!(lock.holder, Holder::Worker { .. }) => {
            format!("in {} unless renewed", span(left))
        }
        Ends::After(left) => format!("in {}", span(left)),
        Ends::WithProcess => "with its process, at the latest".into(),
        Ends::Never => "never by itself".into(),
        Ends::Unknown => "not told by this store".into(),
    }
}

/// The same in a sentence.
pub(crate) fn it_ends(lock: &Lock) -> String {
    match lock.ends {
        Ends::Never => "never ends by itself".into(),
        Ends::Unknown => "ends at a time that this store does not tell".into(),
        Ends::After(_) | Ends::WithProcess => format!("ends {}", ends(lock)),
    }
}

pub(crate) fn waiting(waiting: Option<u32>) -> String {
    waiting.map_or("?".into(), |waiting| waiting.to_string())
}

/// A lock as JSON.
pub(crate) fn lock_json(lock: &Lock) -> Value {
    let (when, seconds) = match lock.ends {
        Ends::After(left) => ("after", Some(left.as_secs_f64())),
        Ends::WithProcess => ("with its process", None),
        Ends::Never => ("never", None),
        Ends::Unknown => ("unknown", None),
    };
    json!({
        "holder": lock.holder.to_string(), "ends": when, "ends_after_seconds": seconds, "waiting": lock.waiting,
    })
}

/// In the unit that people read: `14.2 s`, `24 min`, `3 h`, `2 days`.
fn span(time: Duration) -> String {
    match time.as_secs() {
        ..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 60..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_units_that_people_read() {
        let said = [14.25, 60.0, 1440.0, 7200.0, 172_800.0].map(|s| span(Duration::from_secs_f64(s)));
        assert_eq!(said, ["14.2 s", "1 min", "24 min", "2 h", "2 days"]);
    }
}
