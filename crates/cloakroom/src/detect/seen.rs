//! The variables as detection reads them, and what it sees in them.

use serde_json::Value;

use crate::{Environment, Error, ErrorKind, Result, StoreUrl};

/// What one source saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// The variables, as they are called there.
    pub(super) from: Vec<String>,
    /// Which part of the variable's value, where it has many.
    pub(super) part: Option<String>,
    /// Whether it comes before the others of its rank.
    pub(super) first: bool,
    /// What is to be said where it is chosen.
    pub(super) notice: Option<&'static str>,
    pub(super) found: Found,
}

#[derive(Debug)]
pub(super) enum Found {
    Store(StoreUrl),
    /// Files, by name.
    Files,
    /// It cannot be understood.
    Broken(Error),
    /// It is not for sessions.
    Never(String),
}

impl Seen {
    pub(super) fn of(from: Vec<String>, found: Found) -> Self {
        Seen { from, part: None, first: false, notice: None, found }
    }

    pub(super) fn new(from: Vec<String>, found: Result<StoreUrl>) -> Self {
        Seen::of(from, found.map_or_else(Found::Broken, Found::Store))
    }

    pub(super) fn broken(name: &str, error: Error) -> Self {
        Seen::new(vec![name.to_owned()], Err(error))
    }

    pub(super) fn never(name: &str, why: impl Into<String>) -> Self {
        Seen::of(vec![name.to_owned()], Found::Never(why.into()))
    }

    pub(super) fn part(self, part: impl Into<String>) -> Self {
        Seen { part: Some(part.into()), ..self }
    }

    pub(super) fn first(self) -> Self {
        Seen { first: true, ..self }
    }
}

/// A variable that is set.
#[derive(Debug)]
pub(super) struct Variable {
    /// Its name: `X`, or `X_FILE` where that has it.
    pub(super) name: String,
    pub(super) value: String,
}

/// The environment, with what counts as unset left out.
pub(super) struct Variables<'a>(pub(super) &'a Environment);

impl<'a> Variables<'a> {
    /// The variable, or the content of the file that `NAME_FILE` names, without the white space around it.
    pub(super) fn get(&self, name: &str) -> Result<Option<Variable>> {
        let file = format!("{name}_FILE");
        match (self.plain(name), self.plain(&file)) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(config(format!("{name} and {file} are both set")).hint("keep one of them"))
            }
            (Some(value), None) => Ok(Some(Variable { name: name.to_owned(), value: value.to_owned() })),
            (None, Some(path)) => {
                let value = read(&file, path)?.trim().to_owned();
                Ok((!is_unset(&value)).then_some(Variable { name: file, value }))
            }
        }
    }

    /// A port; what container platforms set for every service (`REDIS_PORT=tcp://10.0.0.1:6379`) is none.
    pub(super) fn port(&self, name: &str) -> Result<Option<Variable>> {
        Ok(self.get(name)?.filter(|variable| !variable.value.contains("://")))
    }

    /// The variable itself.
    pub(super) fn plain(&self, name: &str) -> Option<&'a str> {
        self.0.var(name).map(str::trim).filter(|value| !is_unset(value))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.0.names().filter(|name| self.plain(name).is_some())
    }
}

fn is_unset(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "" | "null" | "(null)")
        || (value.starts_with("${") && value.find('}') == Some(value.len() - 1))
}

/// The file that a variable names.
pub(super) fn read(variable: &str, path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| {
        config(format!("{variable}: cannot read the file{}", shown(path)))
            .source(error)
            .hint("the file must be readable by the user that PHP runs as")
    })
}

/// The path, unless it is none: somebody may have written the secret itself there.
pub(super) fn shown(path: &str) -> String {
    if path.starts_with('/') { format!(" {path}") } else { String::new() }
}

pub(super) fn config(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, what)
}

/// The JSON that a variable, or the file that it names, holds. Serde's message tells the line, never the text.
pub(super) fn json(name: &str, text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| {
        config(format!("{name} holds no JSON that can be read"))
            .source(error.to_string())
            .hint(format!("look at what sets {name}, or name the store in SESSION_STORE_URL"))
    })
}

/// A text, or a number as one: platforms write ports as both.
pub(super) fn text(of: &Value, name: &str) -> Option<String> {
    match &of[name] {
        Value::String(text) if !is_unset(text.trim()) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A port, as the variable `name` has it.
pub(super) fn port(name: &str, value: &str) -> Result<u16> {
    value.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
        config(format!("{name}: the port is not a number from 1 to 65535")).hint(format!("correct {name}"))
    })
}
