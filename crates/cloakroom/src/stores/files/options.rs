//! `session.save_path = /path`, `N;/path` or `N;MODE;/path`, and where a session's file is.

use std::path::{Path, PathBuf};

use crate::save_path::wrong;
use crate::{Result, SessionId, StoreUrl};

/// What `session.save_path` says about a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How many directories deep the files are, each named by a character of the session id.
    levels: usize,
    mode: u32,
    directory: String,
    name: String,
}

impl Options {
    /// More levels than this would outnumber the sessions of any site; it is most likely a typing error.
    const MOST_LEVELS: usize = 16;

    /// Reads the directory forms of `session.save_path`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] with the character that cannot be understood.
    pub fn parse(url: &StoreUrl) -> Result<Self> {
        let text = url.server().path.as_str();
        if let Some(param) = url.server().params.first() {
            let hint = "write the directory alone";
            return Err(wrong(param.at - 1, "a directory takes no options", hint));
        }
        let (levels, mode, directory) = match text.splitn(3, ';').collect::<Vec<_>>()[..] {
            [levels, mode, directory] => (Some(levels), Some(mode), directory),
            [levels, directory] => (Some(levels), None, directory),
            _ => (None, None, text),
        };
        let levels = match levels {
            None => 0,
            Some(digits) => number(digits, 10)
                .and_then(|levels| usize::try_from(levels).ok())
                .filter(|levels| *levels <= Self::MOST_LEVELS)
                .ok_or_else(|| {
                    let what = format!(
                        "the number of directory levels is not a number from 0 to {}",
                        Self::MOST_LEVELS
                    );
                    wrong(0, what, "write N;/path, for example 2;/var/lib/php/sessions")
                })?,
        };
        let mode = match mode {
            None => 0o600,
            Some(digits) => {
                number(digits, 8).filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600).ok_or_else(|| {
                    let what = "the mode is not an octal number that lets the owner read and write";
                    let at = text.find(';').map_or(0, |semicolon| semicolon + 1);
                    wrong(at, what, "write N;MODE;/path, for example 0;0660;/var/lib/php/sessions")
                })?
            }
        };
        if !directory.starts_with('/') {
            let what = match directory.is_empty() {
                true => "the directory is missing",
                false => "the directory is not an absolute path",
            };
            // What stands before it is digits: as many bytes as characters.
            let at = text.len() - directory.len();
            return Err(wrong(at, what, "write the whole path, for example /var/lib/php/sessions"));
        }
        if directory.contains('\0') {
            return Err(wrong(0, "a path has no NUL character", "remove it"));
        }
        let directory = match directory.trim_end_matches('/') {
            "" => "/".to_owned(),
            trimmed => trimmed.to_owned(),
        };
        Ok(Options { levels, mode, directory, name: url.to_string() })
    }

    /// How errors name this store.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn levels(&self) -> usize {
        self.levels
    }

    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    pub(super) fn directory(&self) -> &Path {
        Path::new(&self.directory)
    }

    /// Where a session's file is; `None` for an id that is too short to have one.
    pub(super) fn file(&self, id: &SessionId) -> Option<PathBuf> {
        let id = id.as_str();
        if id.len() <= self.levels {
            return None;
        }
        let mut path = String::with_capacity(self.directory.len() + 2 * self.levels + id.len() + 6);
        path.push_str(&self.directory);
        path.push('/');
        for level in id.chars().take(self.levels) {
            path.push(level);
            path.push('/');
        }
        path.push_str("sess_");
        path.push_str(id);
        Some(path.into())
    }
}

/// A whole number without sign or blanks: PHP's own handler reads `2x` as 2 and `x` as 0.
fn number(digits: &str, radix: u32) -> Option<u32> {
    let plain = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, ErrorKind, SavePath};

    fn options(text: &str) -> Result<Options> {
        match SavePath::parse(text, &Environment::default())? {
            SavePath::Store(url) => Options::parse(&url),
            SavePath::Detect => panic!("{text} means detection"),
        }
    }

    #[test]
    fn every_directory_form_is_read_as_php_reads_it() {
        let id = SessionId::parse(b"abcdef").unwrap();
        for (text, mode, file) in [
            ("/srv/s", 0o600, "/srv/s/sess_abcdef"),
            ("/srv/s/", 0o600, "/srv/s/sess_abcdef"),
            ("file:///srv/s", 0o600, "/srv/s/sess_abcdef"),
            ("file:///srv/my%20s", 0o600, "/srv/my s/sess_abcdef"),
            ("0;/srv/s", 0o600, "/srv/s/sess_abcdef"),
            ("2;/srv/s", 0o600, "/srv/s/a/b/sess_abcdef"),
            ("1;660;/srv/s", 0o660, "/srv/s/a/sess_abcdef"),
            ("2;0640;/srv/s;t", 0o640, "/srv/s;t/a/b/sess_abcdef"),
        ] {
            let options = options(text).unwrap();
            assert_eq!(
                (options.mode(), options.file(&id).unwrap().to_str().unwrap()),
                (mode, file),
                "{text}"
            );
        }
    }

    #[test]
    fn an_id_that_is_too_short_for_the_levels_has_no_file() {
        let id = |text: &str| SessionId::parse(text.as_bytes()).unwrap();
        let options = options("2;/srv/s").unwrap();
        assert_eq!(options.file(&id("ab")), None);
        assert_eq!(options.file(&id("abc")), Some("/srv/s/a/b/sess_abc".into()));
    }

    #[test]
    fn malformed_directories_are_refused_with_the_whole_reason() {
        let levels = (
            "the number of directory levels is not a number from 0 to 16",
            "write N;/path, for example 2;/var/lib/php/sessions",
        );
        let mode = (
            "the mode is not an octal number that lets the owner read and write",
            "write N;MODE;/path, for example 0;0660;/var/lib/php/sessions",
        );
        let relative = (
            "the directory is not an absolute path",
            "write the whole path, for example /var/lib/php/sessions",
        );
        let missing = ("the directory is missing", "write the whole path, for example /var/lib/php/sessions");
        for (text, (what, hint), at) in [
            ("./s", relative, 1),
            ("../s", relative, 1),
            ("1;s", relative, 3),
            ("1;0600;s", relative, 8),
            ("2;", missing, 3),
            (";/srv/s", levels, 1),
            ("x;/srv/s", levels, 1),
            ("2x;/srv/s", levels, 1),
            ("+2;/srv/s", levels, 1),
            ("17;/srv/s", levels, 1),
            ("99999999999;/srv/s", levels, 1),
            ("-1;/srv/s", levels, 1),
            ("1;rw;/srv/s", mode, 3),
            ("1;;/srv/s", mode, 3),
            ("1;0680;/srv/s", mode, 3),
            ("1;0400;/srv/s", mode, 3),
            ("1;7777;/srv/s", mode, 3),
            ("/srv/s;/srv/t", levels, 1),
            ("file:///srv?levels=2", ("a directory takes no options", "write the directory alone"), 13),
            ("file:///srv/%00", ("a path has no NUL character", "remove it"), 1),
        ] {
            let error = options(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            let expected = format!("session.save_path: {what} (at character {at})\nhint: {hint}");
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }
}
