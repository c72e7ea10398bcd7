//! The files that take PHP's settings: how a line of each is written, and recognised.

use cloakroom::{Error, ErrorKind, Result};

/// Which file the settings are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// php.ini, or a file in its conf.d
    #[value(name = "php.ini")]
    PhpIni,
    /// .user.ini, beside the scripts
    #[value(name = "user.ini")]
    UserIni,
    /// A pool of PHP-FPM: php_value[...]
    FpmPool,
    /// Apache with mod_php, or .htaccess: php_value
    Apache,
}

impl Format {
    /// The line that sets this; it ends where it ends, a value may hold line ends.
    pub(crate) fn line(self, name: &str, value: &str) -> Result<String> {
        match self {
            Format::PhpIni | Format::UserIni => Ok(format!("{name} = {}", quoted(value))),
            // PHP-FPM puts the pool's name there, whatever the quotes.
            Format::FpmPool if value.contains("$pool") => Err(impossible(name, "$pool", "a pool")),
            Format::FpmPool => Ok(format!("php_value[{name}] = {}", quoted(value))),
            Format::Apache => Ok(format!("php_value {name} {}", quoted_for_apache(name, value)?)),
        }
    }

    /// A line that says something and does nothing.
    pub(crate) fn comment(self, text: &str) -> String {
        match self {
            Format::Apache => format!("# {text}"),
            Format::PhpIni | Format::UserIni | Format::FpmPool => format!("; {text}"),
        }
    }

    /// The setting that a line of the file sets, and what follows its name.
    pub(crate) fn setting_of(self, line: &str) -> Option<(&str, &str)> {
        let line = line.trim_start();
        match self {
            Format::PhpIni | Format::UserIni => {
                let (name, value) = line.split_once('=')?;
                Some((name.trim_end(), value))
            }
            Format::FpmPool => {
                let (name, value) = line.split_once('=')?;
                let (kind, name) = name.trim_end().strip_suffix(']')?.split_once('[')?;
                is_php_value(kind).then_some((name, value))
            }
            Format::Apache => {
                let (kind, rest) = line.split_once(char::is_whitespace)?;
                let rest = rest.trim_start();
                let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                is_php_value(&kind.to_ascii_lowercase()).then_some((name, value))
            }
        }
    }
}

fn is_php_value(kind: &str) -> bool {
    matches!(kind, "php_value" | "php_flag" | "php_admin_value" | "php_admin_flag")
}

/// The value as PHP's ini parser reads it back: in double quotes, with what would be a variable in single ones. A
/// plain number stays plain.
fn quoted(value: &str) -> String {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.to_owned();
    }
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace("${", "$\"'{'\"");
    format!("\"{value}\"")
}

/// Apache knows no way to write a line end or, where the variable is set, `${`.
fn quoted_for_apache(name: &str, value: &str) -> Result<String> {
    if value.contains(['\n', '\r']) || value.contains("${") {
        return Err(impossible(name, "a line end or ${", "Apache's configuration"));
    }
    Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
}

fn impossible(name: &str, what: &str, place: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{name} has {what} in it, which {place} cannot hold"))
        .hint("write it for php.ini (--format php.ini)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_writes_its_own_lines_and_knows_them_again() {
        for (format, line) in [
            (Format::PhpIni, r#"session.name = "a\"b\\c$"'{'"d}""#),
            (Format::UserIni, r#"session.name = "a\"b\\c$"'{'"d}""#),
            (Format::FpmPool, r#"php_value[session.name] = "a\"b\\c$"'{'"d}""#),
        ] {
            assert_eq!(format.line("session.name", r#"a"b\c${d}"#).unwrap(), line);
            assert_eq!(format.setting_of(line).unwrap().0, "session.name");
        }
        assert_eq!(Format::Apache.line("a", r#"a"b\c"#).unwrap(), r#"php_value a "a\"b\\c""#);
        assert_eq!(
            Format::Apache.line("session.name", "${d}").unwrap_err().to_string(),
            "session.name has a line end or ${ in it, which Apache's configuration cannot hold\nhint: write it for \
             php.ini (--format php.ini)"
        );
        for (format, line, name) in [
            (Format::PhpIni, "  session.name=x", Some("session.name")),
            (Format::PhpIni, ";session.name = x", Some(";session.name")),
            (Format::FpmPool, "php_admin_flag[session.use_cookies]=1", Some("session.use_cookies")),
            (Format::FpmPool, "env[session.name] = 1", None),
            (Format::Apache, "  PHP_Value\tsession.name  x", Some("session.name")),
            (Format::Apache, "SetEnv session.name x", None),
        ] {
            assert_eq!(format.setting_of(line).map(|(name, _)| name), name, "{line}");
        }
    }
}
