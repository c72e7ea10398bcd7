//! Files of variables, as `docker run --env-file` takes them, and with quotes as shells and frameworks write them.

use std::path::Path;

use cloakroom::{Environment, Error, ErrorKind, Result};

pub(super) fn parse(path: &Path, text: &str) -> Result<Environment> {
    let here = Environment::of_process();
    let mut environment = Environment::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let wrong = |what: &str| {
            // Not the line itself: it may be a secret.
            Error::new(ErrorKind::Config, format!("{}, line {}: {what}", path.display(), index + 1))
                .hint("write NAME=value, NAME=\"value\" or # a comment, each on a line of its own")
        };
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, unquoted(value).ok_or_else(|| wrong("the quote is not closed"))?),
            None => (line.trim_end(), here.var(line.trim_end()).unwrap_or_default().to_owned()),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(wrong("this is not the name of a variable"));
        }
        environment.set(name, value);
    }
    Ok(environment)
}

/// The value without its quotes; `None` where one is not closed, or not at the end.
fn unquoted(value: &str) -> Option<String> {
    let trimmed = value.trim_end();
    let Some(quote) = trimmed.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        // As Docker: whatever follows the = is the value.
        return Some(value.to_owned());
    };
    let inside = trimmed.strip_prefix(quote)?.strip_suffix(quote)?;
    if quote == '\'' {
        return (!inside.contains('\'')).then(|| inside.to_owned());
    }
    let mut text = String::new();
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return None,
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                escaped @ ('"' | '\\' | '$' | '`') => text.push(escaped),
                other => text.extend(['\\', other]),
            },
            _ => text.push(character),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_dockers_or_quoted() {
        let text = "\u{feff}# comment\n\n  A=1\nexport B='two words'\r\nC=\"a\\\"b\\\\c\\$d\\ne\\q\"\nD=a # b\nE=\nF=x=y\nPATH\nNOT_SET_HERE\n";
        let environment = parse(Path::new("f"), text).unwrap();
        let expected = [
            ("A", Some("1")),
            ("B", Some("two words")),
            ("C", Some("a\"b\\c$d\ne\\q")),
            ("D", Some("a # b")),
            ("E", None),
            ("F", Some("x=y")),
            ("NOT_SET_HERE", None),
        ];
        for (name, value) in expected {
            assert_eq!(environment.var(name), value, "{name}");
        }
        assert_eq!(environment.var("PATH"), Environment::of_process().var("PATH"));
        assert_eq!(environment.var("HOME"), None);
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_not_its_value() {
        for (text, expected) in [
            ("A=1\nB=\"s3cr3t", "f, line 2: the quote is not closed"),
            ("B='s3'cr3t'", "f, line 1: the quote is not closed"),
            ("B=\"s3\"cr3t\"", "f, line 1: the quote is not closed"),
            ("B=\"s3cr3t\\\"", "f, line 1: the quote is not closed"),
            ("s3cr3t s3cr3t=1", "f, line 1: this is not the name of a variable"),
            ("=s3cr3t", "f, line 1: this is not the name of a variable"),
        ] {
            let error = parse(Path::new("f"), text).unwrap_err().to_string();
            assert_eq!(error.lines().next(), Some(expected));
            assert!(!error.contains("s3cr3t"), "{error}");
        }
    }
}
