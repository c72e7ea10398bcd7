//! `SESSION_STORE_URL`: the store, named for nothing but sessions.

use super::seen::{Found, Seen, Variables};
use super::urls;
use crate::SavePath;

pub(super) fn look(variables: &Variables<'_>) -> Vec<Seen> {
    const NAME: &str = "SESSION_STORE_URL";
    let variable = match variables.get(NAME) {
        Ok(Some(variable)) => variable,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![Seen::broken(NAME, error)],
    };
    let from = vec![variable.name.clone()];
    if matches!(variable.value.as_str(), "off" | "files") {
        return vec![Seen::of(from, Found::Files)];
    }
    match SavePath::parse(&variable.value, variables.0) {
        Ok(SavePath::Detect) => Vec::new(),
        Ok(SavePath::Store(mut url)) => {
            if variable.value.starts_with("env:") {
                urls::as_heroku_means_it(&mut url, variables);
            }
            vec![Seen::new(from, Ok(url))]
        }
        Err(error) => vec![Seen::new(from, Err(error.about(&variable.name)))],
    }
}
